"""The contract of every engine, tested on echo, transformers and real vLLM, and the lookup of engines by name."""

import asyncio
import random
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest

from common.errors import ConfigError, EngineError
from tests.support.engines.requests import TINY, ask_all, load_own, make_profile, make_request, open_engine, run
from tests.support.engines.vllm_cpu.process import LOAD_S, VllmHost
from workers.engines.base import Engine, Generation, Request
from workers.engines.registry import load_engine

Open = Callable[[], AbstractAsyncContextManager[Engine]]

pytestmark = pytest.mark.timeout(2 * LOAD_S)

# The options of the engines that run in the process of the test.
OWN: dict[str, dict[str, Any]] = {
    "echo": {"name": "echo", "table": [{"match": "count to ten", "answers": ["1 2 3 4 5 6 7 8 9 10"]}]},
    "hf": {"name": "hf", "weights": TINY, "dtype": "float32", "max_batch_size": 8},
}
ENGINES = [*OWN, "vllm"]


@pytest.fixture(params=ENGINES)
def open_any(request: pytest.FixtureRequest) -> Open:
    """Return a function that opens one of the engines. All tests share one loaded vLLM, because loading is slow."""
    if request.param in OWN:
        return partial(open_engine, **OWN[request.param])
    host: VllmHost = request.getfixturevalue("vllm_host")
    return host.open_shared


@pytest.fixture(params=ENGINES)
def load_any(request: pytest.FixtureRequest) -> Open:
    """Return a function that loads one of the engines for this test only, without starting it."""
    if request.param in OWN:
        return partial(load_own, **OWN[request.param])
    host: VllmHost = request.getfixturevalue("vllm_host")
    return host.load


def test_concurrent_answers_equal_single_answers(open_any: Open) -> None:
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


def test_answer_cut_by_max_tokens_has_reason_length(open_any: Open) -> None:
    async def ask() -> Generation:
        async with open_any() as engine:
            return await engine.generate(make_request(text="Please count to ten.", max_tokens=1))

    generation = run(ask())
    assert generation.finish_reason == "length"
    assert generation.output_tokens == 1


@pytest.mark.parametrize("open_any", ["hf", "vllm"], indirect=True)  # echo returns the whole answer of its table
@pytest.mark.parametrize("place", [0, 1, 5])
def test_answer_ends_before_a_stop_string(open_any: Open, place: int) -> None:
    async def ask() -> tuple[Generation, Generation]:
        async with open_any() as engine:
            whole = await engine.generate(make_request(text="Say it.", max_tokens=24))
            stop = whole.text[place]
            return whole, await engine.generate(make_request(text="Say it.", max_tokens=24, stop=(stop,)))

    whole, stopped = run(ask())
    assert stopped.text == whole.text.partition(whole.text[place])[0]
    assert stopped.text or place == 0
    assert stopped.finish_reason == "stop"


def test_longer_prompt_counts_more_tokens(open_any: Open) -> None:
    async def ask() -> list[Generation]:
        async with open_any() as engine:
            return await ask_all(engine, [make_request(text="Why?"), make_request(text="Why is it so? " * 9)])

    short, long = run(ask())
    assert 0 < short.prompt_tokens < long.prompt_tokens
    assert all(0 <= generation.output_tokens <= 6 for generation in (short, long))


def test_settings_may_differ_between_concurrent_requests(open_any: Open) -> None:
    requests = [make_request(number, max_tokens=1 + number % 4, temperature=number % 2 / 2, seed=number) for number in range(24)]

    async def ask() -> list[Generation]:
        async with open_any() as engine:
            return await ask_all(engine, requests)

    for request, generation in zip(requests, run(ask()), strict=True):
        assert generation.output_tokens <= request.settings.max_tokens


def test_seeded_answer_is_independent_of_other_requests(open_any: Open) -> None:
    requests = [make_request(number, temperature=1.0, top_p=0.9, seed=number // 2) for number in range(12)]

    async def ask() -> tuple[list[Generation], list[Generation]]:
        async with open_any() as engine:
            return await ask_all(engine, requests), [await engine.generate(request) for request in requests]

    together, alone = run(ask())
    assert together == alone


def test_cancelled_request_does_not_block_the_others(open_any: Open) -> None:
    async def ask() -> list[Generation]:
        async with open_any() as engine:
            tasks = [asyncio.ensure_future(engine.generate(make_request(number))) for number in range(30)]
            await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            return await asyncio.gather(*(task for number, task in enumerate(tasks) if number % 3))

    assert len(run(ask())) == 20


def test_stop_fails_waiting_and_later_requests(load_any: Open) -> None:
    async def ask() -> list[Generation | BaseException]:
        async with load_any() as engine:
            await engine.start()
            tasks = [asyncio.ensure_future(engine.generate(make_request(number))) for number in range(30)]
            await asyncio.sleep(0)
            await engine.stop()
            with pytest.raises(EngineError):
                await engine.generate(make_request())
            return await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(result, Generation | EngineError) for result in run(ask(), deadline_s=LOAD_S))


def test_unstarted_engine_rejects_requests_and_stops(load_any: Open) -> None:
    async def ask() -> None:
        async with load_any() as engine:
            with pytest.raises(EngineError, match="not running"):
                await engine.generate(make_request())
            await engine.stop()

    run(ask())


# The registry.


def test_unknown_engine_suggests_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'ehco'; did you mean 'echo'"):
        load_engine(make_profile("ehco"), "")


def test_engine_may_be_an_import_string() -> None:
    engine = load_engine(make_profile("workers.engines.echo:EchoEngine"), "")
    assert type(engine).__name__ == "EchoEngine"


@pytest.mark.parametrize(("name", "package", "extra"), [("hf", "torch", "cpu"), ("vllm", "vllm", "gpu")])
def test_missing_package_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str) -> None:
    for module in [module for module in sys.modules if module.startswith(f"workers.engines.{name}")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}.*pip install 'vlm-fleet\[{extra}\]'"):
        load_engine(make_profile(name), "")


@pytest.mark.parametrize("name", ["nowhere.engine:Engine", "workers.engines.echo:NoSuchEngine"])
def test_invalid_import_string_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot import 'nowhere|'NoSuchEngine' does not exist"):
        load_engine(make_profile(name), "")


@pytest.mark.parametrize("name", ["echo", "hf"])
def test_unknown_engine_option_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match="profile tried: engine_options: bach_size: unknown field"):
        load_engine(make_profile(name, {"bach_size": 4}), "")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("max_modle_len", "unknown option of vLLM; did you mean 'max_model_len'"),
        ("model", "the profile field 'weights' sets it"),
    ],
)
def test_unknown_or_reserved_vllm_option_is_rejected(vllm_host: VllmHost, option: str, message: str) -> None:
    async def load() -> None:
        async with vllm_host.load({option: 1}):
            """Loading fails before this block."""

    with pytest.raises(ConfigError, match=f"profile tried: engine_options: {option}: {message}"):
        run(load())


def test_value_rejected_by_vllm_is_config_error(vllm_host: VllmHost) -> None:
    async def start() -> None:
        async with vllm_host.load({"max_model_len": 10**6}) as engine:
            await engine.start()

    with pytest.raises(ConfigError, match=r"profile tried: vLLM refuses the weights or the engine_options: (?s:.*)max_model_len"):
        run(start())
