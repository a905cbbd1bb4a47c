"""Every engine refuses a prompt that fills the context of its model, and ends an answer at the end of the context."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest

from common.errors import SampleError
from tests.support.engines.requests import TINY, make_request, open_engine, run
from tests.support.engines.vllm_cpu.process import LOAD_S, VllmHost
from workers.engines.base import Engine, Generation, Request

Open = Callable[[], AbstractAsyncContextManager[Engine]]

pytestmark = pytest.mark.timeout(2 * LOAD_S)

CONTEXT = 256
WORD = " the"  # one token of the tiny model
OPENERS: dict[str, Open] = {
    "echo": partial(open_engine, "echo", context_tokens=CONTEXT, default="ok " * 2 * CONTEXT),
    "hf": partial(open_engine, "hf", TINY, dtype="float32", max_batch_size=4, max_model_len=CONTEXT),
}
ENGINES = [*OPENERS, "vllm"]


@pytest.fixture(params=ENGINES)
def open_any(request: pytest.FixtureRequest) -> Open:
    """Return a function that opens one of the engines."""
    if request.param in OPENERS:
        return OPENERS[request.param]
    host: VllmHost = request.getfixturevalue("vllm_host")
    return host.open_shared


async def ask(engine: Engine, request: Request) -> Generation | SampleError:
    try:
        return await engine.generate(request)
    except SampleError as fault:
        return fault


async def find_context(engine: Engine) -> int:
    """Return the context length that the engine reports when it refuses a prompt."""
    refused = await ask(engine, make_request(text=WORD * 5000, images=0))
    assert isinstance(refused, SampleError)
    return int(str(refused).partition("the context of the model has ")[2].partition(";")[0])


async def write_prompt(engine: Engine, prompt_tokens: int, images: int, **settings: Any) -> Request:
    """Return a request whose prompt has ``prompt_tokens`` tokens. A short prompt first measures the fixed part."""
    short = await engine.generate(make_request(text="Why" + WORD, images=images, max_tokens=1))
    words = 1 + prompt_tokens - (short.prompt_tokens or 0)
    return make_request(text="Why" + WORD * words, images=images, **settings)


@pytest.mark.parametrize("images", [0, 1])
def test_prompt_that_fills_context_is_refused(open_any: Open, images: int) -> None:
    async def ask_each() -> tuple[int, list[Generation | SampleError]]:
        async with open_any() as engine:
            context = await find_context(engine)
            lengths = [context - 1, context, context + 1, 10 * context, 1000 * context]
            requests = [await write_prompt(engine, length, images) for length in lengths]
            return context, [await ask(engine, request) for request in requests]

    context, (last, *refused) = run(ask_each(), deadline_s=LOAD_S)
    assert isinstance(last, Generation)
    assert (last.prompt_tokens, last.finish_reason) == (context - 1, "length")
    assert (last.output_tokens or 0) <= 1
    for fault in refused:
        assert isinstance(fault, SampleError)
        assert fault.code == "too_long"
    for fault, length in zip(refused, [context, context + 1], strict=False):
        assert f"the prompt has {length} tokens, but the context of the model has {context}; expected" in str(fault)
    stated = int(str(refused[-1]).removeprefix("the prompt has ").removeprefix("about ").partition(" ")[0])
    assert 900 * context < stated < 1100 * context


def test_answer_ends_at_context_limit(open_any: Open) -> None:
    async def ask_once() -> tuple[int, Generation | SampleError]:
        async with open_any() as engine:
            context = await find_context(engine)
            return context, await ask(engine, await write_prompt(engine, context - 3, 0, max_tokens=4 * context))

    context, answer = run(ask_once(), deadline_s=LOAD_S)
    assert isinstance(answer, Generation)
    assert answer.prompt_tokens == context - 3
    assert answer.finish_reason == "stop" or answer.output_tokens == 3
    assert (answer.output_tokens or 0) <= 3


def test_refused_prompt_does_not_affect_other_requests(open_any: Open) -> None:
    async def ask_together() -> tuple[list[Generation], list[Generation | SampleError]]:
        async with open_any() as engine:
            context = await find_context(engine)
            fine = [make_request(number, images=0) for number in range(6)]
            alone = [await engine.generate(request) for request in fine]
            long = [make_request(10 + n, text=WORD * words, images=0) for n, words in enumerate((context, 2 * context, 2_200_000))]
            mixed = [fine[0], long[0], *fine[1:4], long[1], *fine[4:], long[2]]
            results = await asyncio.gather(*(ask(engine, request) for request in mixed))
            return alone, results

    alone, results = run(ask_together(), deadline_s=LOAD_S)
    assert [result for result in results if isinstance(result, Generation)] == alone
    assert [fault.code for fault in results if isinstance(fault, SampleError)] == ["too_long"] * 3
