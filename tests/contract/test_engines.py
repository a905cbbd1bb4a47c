"""What every engine promises, on the echo engine and on transformers, and how an engine is found by its name."""

import asyncio
import random
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from common.errors import ConfigError, EngineError
from tests.support.engines import TINY, ask_all, make_profile, make_request, open_engine, run
from workers.engines.base import Engine, Generation, Request
from workers.engines.registry import load_engine

Open = Callable[..., AbstractAsyncContextManager[Engine]]


@pytest.fixture(scope="session", params=["echo", "hf"])
def open_any(request: pytest.FixtureRequest) -> Open:
    """Return a function that opens one of the engines, with the shared options of the contract."""
    if request.param == "echo":
        rule = {"match": "count to ten", "answers": ["1 2 3 4 5 6 7 8 9 10"]}
        return lambda: open_engine("echo", table=[rule])
    return lambda: open_engine("hf", TINY, dtype="float32", max_batch_size=8)


def test_a_hundred_requests_at_once_get_the_answers_they_get_alone_in_any_order(open_any: Open) -> None:
    requests = [make_request(number, images=number % 3 % 2) for number in range(100)]
    shuffled = random.Random(4).sample(requests, len(requests))

    async def ask() -> tuple[dict[str, Generation], dict[str, Generation], list[Generation]]:
        async with open_any() as engine:
            first = await ask_all(engine, requests)
            second = await ask_all(engine, shuffled)
            alone = [await engine.generate(request) for request in requests[:5]]
        return by_id(requests, first), by_id(shuffled, second), alone

    first, second, alone = run(ask())
    assert first == second
    assert [first[request.request_id] for request in requests[:5]] == alone


def by_id(requests: list[Request], generations: list[Generation]) -> dict[str, Generation]:
    return {request.request_id: generation for request, generation in zip(requests, generations, strict=True)}


def test_an_answer_that_max_tokens_cuts_ends_with_length(open_any: Open) -> None:
    async def ask() -> Generation:
        async with open_any() as engine:
            return await engine.generate(make_request(text="Please count to ten.", max_tokens=1))

    generation = run(ask())
    assert generation.finish_reason == "length"
    assert generation.output_tokens == 1


def test_tokens_are_counted_and_a_longer_prompt_has_more(open_any: Open) -> None:
    async def ask() -> list[Generation]:
        async with open_any() as engine:
            return await ask_all(engine, [make_request(text="Why?"), make_request(text="Why is it so? " * 9)])

    short, long = run(ask())
    assert 0 < short.prompt_tokens < long.prompt_tokens
    assert all(0 <= generation.output_tokens <= 6 for generation in (short, long))


def test_settings_may_differ_within_one_wave(open_any: Open) -> None:
    requests = [make_request(number, max_tokens=1 + number % 4, temperature=number % 2 / 2, seed=number) for number in range(24)]

    async def ask() -> list[Generation]:
        async with open_any() as engine:
            return await ask_all(engine, requests)

    for request, generation in zip(requests, run(ask()), strict=True):
        assert generation.output_tokens <= request.settings.max_tokens


def test_a_seed_gives_the_same_answer_alone_and_among_others(open_any: Open) -> None:
    requests = [make_request(number, temperature=1.0, top_p=0.9, seed=number // 2) for number in range(12)]

    async def ask() -> tuple[list[Generation], list[Generation]]:
        async with open_any() as engine:
            return await ask_all(engine, requests), [await engine.generate(request) for request in requests]

    together, alone = run(ask())
    assert together == alone


def test_a_cancelled_request_does_not_keep_the_others_waiting(open_any: Open) -> None:
    async def ask() -> list[Generation]:
        async with open_any() as engine:
            tasks = [asyncio.ensure_future(engine.generate(make_request(number))) for number in range(30)]
            await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            return await asyncio.gather(*(task for number, task in enumerate(tasks) if number % 3))

    assert len(run(ask())) == 20


def test_stop_leaves_nobody_waiting_and_refuses_what_comes_later(open_any: Open) -> None:
    async def ask() -> list[Generation | BaseException]:
        async with open_any() as engine:
            tasks = [asyncio.ensure_future(engine.generate(make_request(number))) for number in range(30)]
            await asyncio.sleep(0)
        with pytest.raises(EngineError):
            await engine.generate(make_request())
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(result, Generation | EngineError) for result in run(ask()))


def test_an_engine_that_was_not_started_refuses_and_stops_cleanly() -> None:
    async def ask(name: str) -> None:
        engine = load_engine(make_profile(name), TINY)
        with pytest.raises(EngineError, match="not running"):
            await engine.generate(make_request())
        await engine.stop()

    run(ask("echo"))
    run(ask("hf"))


# The registry.


def test_an_unknown_engine_is_named_with_the_nearest_known() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'ehco'; did you mean 'echo'"):
        load_engine(make_profile("ehco"), "")


def test_an_engine_may_be_an_import_string() -> None:
    engine = load_engine(make_profile("workers.engines.echo_engine:EchoEngine"), "")
    assert type(engine).__name__ == "EchoEngine"


def test_a_missing_package_is_named_with_the_extra_that_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torch", "workers.engines.hf_engine", "workers.engines.hf_model"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"pip install 'vlm-fleet\[cpu\]'"):
        load_engine(make_profile("hf"), "")


@pytest.mark.parametrize("name", ["nowhere.engine:Engine", "workers.engines.echo_engine:NoSuchEngine"])
def test_an_import_string_that_leads_nowhere_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot import 'nowhere|'NoSuchEngine' does not exist"):
        load_engine(make_profile(name), "")


@pytest.mark.parametrize("name", ["echo", "hf"])
def test_an_option_that_the_engine_does_not_know_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match="profile tried: engine_options: bach_size: unknown field"):
        load_engine(make_profile(name, {"bach_size": 4}), "")
