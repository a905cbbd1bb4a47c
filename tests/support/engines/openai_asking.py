"""Requests to a test's endpoint through the openai engine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.settings import get_settings
from tests.support.engines.requests import make_profile, make_request, run
from tests.support.faults.fake_clock import FakeClock
from tests.support.servers.openai_server import KEY, Asked, OpenAIServer, Reply, say, serve_openai
from workers.engines.base import Engine
from workers.engines.openai.engine import OpenAIEngine
from workers.engines.openai.pacing import Clock


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    get_settings.cache_clear()
    with serve_openai() as started:
        yield started
    get_settings.cache_clear()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@asynccontextmanager
async def open_openai(server: OpenAIServer, clock: FakeClock | None = None, **options: Any) -> AsyncIterator[Engine]:
    profile = make_profile("openai", {"base_url": server.url, **options})
    engine = OpenAIEngine(profile, "some-model", clock=clock.as_clock() if clock else Clock(), seed=3)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def ask(server: OpenAIServer, *texts: str, clock: FakeClock | None = None, **options: Any) -> list[Any]:
    """Send one request for each text; return the generation or the error of each."""

    async def gather() -> list[Any]:
        async with open_openai(server, clock, **options) as engine:
            asking = (engine.generate(make_request(number, text, images=0)) for number, text in enumerate(texts))
            return await asyncio.gather(*asking, return_exceptions=True)

    answers: list[Any] = run(gather())
    return answers


def answer_first(*replies: Reply) -> Callable[[Asked], Reply]:
    """Return a reply function that gives these replies to the first requests, and "ok" to later requests."""
    return lambda asked: replies[asked.number] if asked.number < len(replies) else say()


async def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)
