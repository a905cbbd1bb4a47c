"""Turns that are asked one after the other, with the tiny model on transformers and vLLM, and with an endpoint."""

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from common.answers.validators import build_validators
from common.records import Sample
from common.spec.models import SamplingParams
from examples.tiny.scenes import draw_scene, make_scene
from tests.support.engines.openai_asking import open_openai, server
from tests.support.engines.requests import TINY, open_engine, run
from tests.support.engines.vllm_cpu.process import LOAD_S
from tests.support.planning import make_spec
from workers.adapters.chat import ChatAdapter
from workers.engines.base import Engine, Generation, Message, Request
from workers.execution.requests import Placed
from workers.execution.turns import Answers, ask_turns

__all__ = ["server"]  # a fixture

pytestmark = pytest.mark.timeout(2 * LOAD_S)

Open = Callable[[], AbstractAsyncContextManager[Engine]]

QUESTIONS = ("Describe the picture.", "Write a caption for this picture.", "What is in the picture?")


@pytest.fixture(params=["hf", "vllm", "openai"])
def open_any(request: pytest.FixtureRequest) -> Open:
    if request.param == "hf":
        return partial(open_engine, "hf", TINY, dtype="float32")
    if request.param == "openai":
        return partial(open_openai, request.getfixturevalue("server"))
    opened: Open = request.getfixturevalue("vllm_host").open_shared
    return opened


class RecordingHost:
    """The parts of an engine host that asking needs. It keeps the requests and their generations in order."""

    def __init__(self, engine: Engine) -> None:
        self.adapter = ChatAdapter()
        self._engine = engine
        self.made: list[tuple[Request, Generation]] = []

    async def generate(self, request: Request) -> Generation:
        generation = await self._engine.generate(request)
        self.made.append((request, generation))
        return generation


def test_model_gets_its_own_answers_back(open_any: Open) -> None:
    images = tuple(draw_scene(make_scene(random.Random(number))) for number in range(2))
    turns = ((0, QUESTIONS[0]), (QUESTIONS[1],), (1, QUESTIONS[2]))
    messages = tuple(Message("user", content) for content in turns)
    spec = make_spec().model_copy(update={"generation": SamplingParams(max_tokens=64)})
    context: Any = SimpleNamespace(spec=spec, validators=build_validators(("non_empty",)), video_input=None)
    sample, answers = Sample(sample_id="s", dataset="rows", index="0", kind="free_text"), Answers()

    async def ask() -> list[tuple[Request, Generation]]:
        async with open_any() as engine:
            host: Any = RecordingHost(engine)
            await ask_turns(host, context, sample, Placed(messages, images, {}), 3, answers)
            made: list[tuple[Request, Generation]] = host.made
            return made

    made = run(ask(), deadline_s=LOAD_S)
    texts = [generation.text.strip() for _, generation in made]
    assert all(texts)
    assert len(made) == 3
    growing: list[Message] = []
    for (request, _), message, text in zip(made, messages, texts, strict=True):
        growing.append(message)
        assert request.messages == tuple(growing)
        growing.append(Message("assistant", (text,)))
    assert [turn.prediction for turn in answers.turns] == texts[:2]
    assert [one.answered.prediction for one in answers.made] == texts[2:]
    assert answers.turns[0].prompt_tokens == made[0][1].prompt_tokens
