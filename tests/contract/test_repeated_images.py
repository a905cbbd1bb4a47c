"""Requests that show the same image are independent of each other. vLLM sends an image to its engine process only once."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from functools import partial

import pytest
from PIL import Image

from common.errors import SampleError
from tests.support.engines.requests import TINY, ask_all, make_request, open_engine, run
from tests.support.engines.vllm_cpu.process import LOAD_S, VllmHost
from workers.engines.base import Engine, Generation, Request

Open = Callable[[], AbstractAsyncContextManager[Engine]]

pytestmark = pytest.mark.timeout(2 * LOAD_S)


@pytest.fixture(params=["hf", "vllm"])
def open_any(request: pytest.FixtureRequest) -> Open:
    """Return a function that opens one of the engines that see images."""
    if request.param == "hf":
        return partial(open_engine, "hf", TINY, dtype="float32", max_batch_size=8)
    host: VllmHost = request.getfixturevalue("vllm_host")
    return host.open_shared


def show(image: Image.Image, number: int = 0, text: str | None = None) -> Request:
    return replace(make_request(number, text), images=(image,))


def make_noise(seed: int) -> Image.Image:
    """Return an image that no other test shows to the engines."""
    return Image.frombytes("RGB", (48, 32), random.Random(seed).randbytes(48 * 32 * 3))


def test_image_of_a_refused_request_can_be_shown_again(open_any: Open) -> None:
    async def ask() -> Generation:
        async with open_any() as engine:
            with pytest.raises(SampleError, match="the context of the model has"):
                await engine.generate(show(make_noise(1), text=" the" * 5000))
            return await engine.generate(show(make_noise(1)))

    assert run(ask(), deadline_s=LOAD_S).output_tokens


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_image_of_a_cancelled_request_can_be_shown_again(open_any: Open, steps: int) -> None:
    """``steps`` is the number of steps of the event loop before the cancellation."""

    async def ask() -> Generation:
        async with open_any() as engine:
            cancelled = asyncio.create_task(engine.generate(show(make_noise(1 + steps))))
            for _ in range(steps):
                await asyncio.sleep(0)
            cancelled.cancel()
            with suppress(asyncio.CancelledError):
                await cancelled
            return await engine.generate(show(make_noise(1 + steps)))

    assert run(ask(), deadline_s=LOAD_S).output_tokens


def test_concurrent_requests_can_show_the_same_images(open_any: Open) -> None:
    requests = [show(make_noise(1000 + number // 5), number) for number in range(200)]

    async def ask() -> list[Generation]:
        async with open_any() as engine:
            return await ask_all(engine, requests)

    assert len(run(ask(), deadline_s=LOAD_S)) == len(requests)
