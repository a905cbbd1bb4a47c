"""Open engines and make requests for them."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from common.spec.models import ModelProfile, SamplingParams
from workers.engines.base import Engine, Generation, Message, Request
from workers.engines.registry import load_engine

COLOURS = ("red", "green", "blue", "white")

TINY = str(Path(__file__).parents[3] / "examples" / "tiny" / "model")


@asynccontextmanager
async def load_own(name: str, weights: str = "", **options: Any) -> AsyncIterator[Engine]:
    """Yield an engine in this process that is not started."""
    yield load_engine(make_profile(name, options), weights)


@asynccontextmanager
async def open_engine(name: str, weights: str = "", **options: Any) -> AsyncIterator[Engine]:
    engine = load_engine(make_profile(name, options), weights)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def make_profile(engine: str, options: dict[str, Any] | None = None) -> ModelProfile:
    return ModelProfile(name="tried", engine=engine, engine_options=options or {})


def make_request(number: int = 0, text: str | None = None, *, images: int = 1, attempt: int = 1, **settings: Any) -> Request:
    """Return a request; the length of its prompt depends on its number."""
    question = text if text is not None else f"What is shown in picture {number}? " + "Look well. " * (number % 5)
    pictures = tuple(Image.new("RGB", (40 + number % 3, 30), COLOURS[(number + place) % 4]) for place in range(images))
    asked = SamplingParams(**{"max_tokens": 6, **settings})
    return Request(f"r{number}", (Message("user", (*range(images), question)),), pictures, asked, attempt)


async def ask_all(engine: Engine, requests: list[Request]) -> list[Generation]:
    return await asyncio.gather(*(engine.generate(request) for request in requests))


def run(coroutine: Coroutine[Any, Any, Any], *, deadline_s: float = 100.0) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, deadline_s))
