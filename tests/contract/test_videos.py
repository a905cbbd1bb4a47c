"""vLLM and transformers send a video in the same way, compared token by token with a tiny model that has a video input.

Both engines run in the process of vLLM, because the video processors of transformers require torchvision.
"""

import random
import re
from typing import Any

import pytest
from PIL import Image
from transformers import AutoTokenizer

from common.spec.models import SamplingParams
from tests.support.engines.requests import ask_all, run
from tests.support.engines.video_model import write_video_model
from tests.support.engines.vllm_cpu.process import LOAD_S, RemoteEngine, VllmHost
from workers.engines.base import Generation, Message, Request
from workers.media.frames import FrameTimes

pytestmark = pytest.mark.timeout(4 * LOAD_S)

FRAMES = tuple(Image.frombytes("RGB", (96, 64), random.Random(seed).randbytes(96 * 64 * 3)) for seed in range(8))
FILM = FrameTimes(25.0, 100, (12, 37, 62, 87))
CLIP = FrameTimes(29.97, 3000, (500, 1500, 2500))
STILL = FrameTimes(25.0, 1, (0,))
REQUESTS = [
    Request(name, messages, FRAMES, SamplingParams(max_tokens=8), videos=videos)
    for name, messages, videos in (
        ("video", (Message("user", (0, 1, 2, 3, "What?")),), {0: FILM}),
        ("odd number of frames", (Message("user", (0, 1, 2, "What?")),), {0: CLIP}),
        ("one frame", (Message("user", ("What? ", 0)),), {0: STILL}),
        ("two videos and images", (Message("user", (7, "then", 0, 1, 2, 3, "and", 4, 5, 6, "or", 7)),), {0: FILM, 4: CLIP}),
        ("video shown twice", (Message("user", (0, 1, 2, 3, "twice", 0, 1, 2, 3)),), {0: FILM}),
        ("turns", (Message("user", (0,)), Message("assistant", ("A.",)), Message("user", (4, 5, 6))), {0: STILL, 4: CLIP}),
        ("frames", (Message("user", (0, 1, 2, "What?")),), {}),
        ("text", (Message("user", ("What?",)),), {}),
    )
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_video_model(tmp_path_factory.mktemp("video_model"))


async def ask(engine: RemoteEngine) -> tuple[dict[str, list[int]], list[Generation]]:
    """Return the tokens of the prompt of each request, and the answers."""
    await engine.start()
    try:
        assert await engine.takes_videos()
        return {one.request_id: await engine.list_tokens(one) for one in REQUESTS}, await ask_all(engine, REQUESTS)
    finally:
        await engine.stop()


def test_vllm_and_transformers_send_the_same_videos(vllm_host: VllmHost, weights: str) -> None:
    async def ask_both() -> tuple[tuple[dict[str, list[int]], list[Generation]], ...]:
        async with vllm_host.load_hf(weights, dtype="float32", max_batch_size=4) as hf, vllm_host.load(weights=weights) as vllm:
            return await ask(hf), await ask(vllm)

    (our_tokens, ours), (their_tokens, theirs) = run(ask_both(), deadline_s=2 * LOAD_S)
    assert their_tokens == our_tokens
    assert [one.prompt_tokens for one in ours] == [len(tokens) for tokens in our_tokens.values()]
    assert theirs == ours
    assert len({one.text for one in ours}) > len(REQUESTS) // 2, "the answers do not depend on the request"

    tokenizer: Any = AutoTokenizer.from_pretrained(weights)
    times = {name: re.findall(r"<([\d.]+) seconds>", tokenizer.decode(tokens)) for name, tokens in our_tokens.items()}
    film, clip = ["1.0", "3.0"], ["33.4", "83.4"]  # the mean times of pairs of frames; a last frame is paired with itself
    assert times["video"] == film
    assert times["odd number of frames"] == clip
    assert times["one frame"] == ["0.0"]
    assert times["two videos and images"] == [*film, *clip]
    assert times["video shown twice"] == film * 2
    assert times["turns"] == ["0.0", *clip]
    assert times["frames"] == times["text"] == []


def test_limit_of_no_videos_disables_the_video_input(vllm_host: VllmHost, weights: str) -> None:
    async def ask_engines() -> tuple[bool, bool]:
        async with (
            vllm_host.open_shared() as tiny,
            vllm_host.load({"limit_mm_per_prompt": {"video": 0}}, weights=weights) as engine,
        ):
            await engine.start()
            try:
                return await tiny.takes_videos(), await engine.takes_videos()
            finally:
                await engine.stop()

    assert run(ask_engines(), deadline_s=LOAD_S) == (False, False)
