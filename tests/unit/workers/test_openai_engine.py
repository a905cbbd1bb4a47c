"""The openai engine against a real HTTP server: limits, faults, patience, keys, and a stop at any time."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.errors import ConfigError, EngineError, SampleError, TransientError
from common.settings import get_settings
from tests.support.dictated_clock import DictatedClock
from tests.support.engines import ask_all, make_profile, make_request, run
from tests.support.openai_server import CUT, HANG, KEY, PAGE, Asked, OpenAIServer, Reply, refuse, say, say_json, serve_openai
from workers.engines import openai_engine
from workers.engines.base import Engine, Generation
from workers.engines.openai_engine import OpenAIEngine
from workers.engines.openai_limits import MOST_BLAME, Clock
from workers.engines.openai_wire import write_body

AWAY = "http://127.0.0.1:1/v1"  # nobody listens on port 1


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    get_settings.cache_clear()
    with serve_openai() as started:
        yield started
    get_settings.cache_clear()


@pytest.fixture
def clock() -> DictatedClock:
    return DictatedClock()


@asynccontextmanager
async def open_openai(server: OpenAIServer, clock: DictatedClock | None = None, **options: Any) -> AsyncIterator[Engine]:
    profile = make_profile("openai", {"base_url": server.url, **options})
    engine = OpenAIEngine(profile, "some-model", clock=clock.as_clock() if clock else Clock(), seed=3)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def ask(server: OpenAIServer, *texts: str, clock: DictatedClock | None = None, **options: Any) -> list[Any]:
    """Return what becomes of one request for each text: a generation or an error."""

    async def gather() -> list[Any]:
        async with open_openai(server, clock, **options) as engine:
            asking = (engine.generate(make_request(number, text, images=0)) for number, text in enumerate(texts))
            return await asyncio.gather(*asking, return_exceptions=True)

    answers: list[Any] = run(gather())
    return answers


def first(*replies: Reply) -> Callable[[Asked], Reply]:
    """Return a server's answers: these to the first requests, "ok" to all that follow."""
    return lambda asked: replies[asked.number] if asked.number < len(replies) else say()


async def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


# What is asked and answered.


def test_a_request_reaches_the_endpoint_with_key_model_image_and_settings(server: OpenAIServer) -> None:
    server.reply = lambda _: say("a circle")

    async def ask_once() -> Generation:
        async with open_openai(server) as engine:
            return await engine.generate(make_request(text="What is it?", max_tokens=5, seed=8))

    assert run(ask_once()) == Generation("a circle", "stop", 11, 2)
    (asked,) = server.asked
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["content-type"] == "application/json"
    assert (asked.body["model"], asked.body["max_tokens"], asked.body["seed"]) == ("some-model", 5, 8)
    assert asked.text == "What is it?"
    assert [image[:4] for image in asked.images] == [b"\x89PNG"]


def test_an_endpoint_without_a_key_gets_none_whatever_the_environment_holds(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-of-nobody-at-all")
    (generation,) = ask(server, "x", api_key_env=None)
    assert generation.text == "ok"
    assert "authorization" not in server.asked[0].headers


def test_a_hundred_requests_get_their_own_answers(server: OpenAIServer) -> None:
    server.reply = lambda asked: say(asked.text[::-1])
    texts = [f"question {number}" for number in range(100)]
    assert [generation.text for generation in ask(server, *texts)] == [text[::-1] for text in texts]


# Limits.


@pytest.mark.parametrize("concurrency", [1, 7])
def test_no_more_requests_than_asked_for_are_at_the_endpoint_or_encoded(
    server: OpenAIServer, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = 0
    lock = threading.Lock()
    left_over: list[int] = []  # bodies that were written and not yet answered

    def write_and_count(*arguments: Any) -> bytes:
        nonlocal encoded
        with lock:
            encoded += 1
            left_over.append(encoded - answered)
        return write_body(*arguments)

    answered = 0

    def reply(asked: Asked) -> Reply:
        nonlocal answered
        server.wait_for(concurrency)
        with lock:
            answered += 1
        return say(asked.text)

    monkeypatch.setattr(openai_engine, "write_body", write_and_count)
    server.reply = reply
    answers = ask(server, *map(str, range(40)), concurrency=concurrency)
    assert [answer.text for answer in answers] == [str(number) for number in range(40)]
    assert server.most_at_once == concurrency
    assert max(left_over) == concurrency


def test_requests_start_as_far_apart_as_asked_for(server: OpenAIServer, clock: DictatedClock) -> None:
    came: list[float] = []
    server.reply = lambda _: came.append(clock.now_s) or say()  # type: ignore[func-returns-value]  # that is what `or` is for
    ask(server, *"abcdef", clock=clock, requests_per_minute=30, request_delay_s=0.5, concurrency=1)
    assert came == [1000, 1002, 1004, 1006, 1008, 1010]


# Faults that pass.


@pytest.mark.parametrize(
    "fault",
    [
        refuse(500), refuse(503, headers={"Retry-After": "0"}), refuse(429), refuse(408), CUT, PAGE, Reply(),
        say_json({"choices": []}), say_json({"error": {"message": "upstream", "code": 502}}),
        Reply(200, b"<html><title>Welcome to our Wi-Fi</title>"),
        Reply(200, b'{"choices": [', {"Content-Type": "application/json"}), Reply(200, b"\x1f\x8b", {"Content-Encoding": "gzip"}),
    ],
)  # fmt: skip
def test_whatever_passes_is_asked_again_with_the_same_words(server: OpenAIServer, clock: DictatedClock, fault: Reply) -> None:
    server.reply = first(fault, fault)
    (generation,) = ask(server, "why?", clock=clock)
    assert generation.text == "ok"
    assert [asked.body for asked in server.asked] == [server.asked[0].body] * 3
    assert all(wait_s <= bound_s for wait_s, bound_s in zip(clock.slept, (1, 2), strict=True))


def test_a_request_that_nobody_answers_is_given_up_and_made_again(server: OpenAIServer, clock: DictatedClock) -> None:
    server.reply = first(HANG)
    (generation,) = ask(server, "why?", clock=clock, timeout_s=1)
    assert generation.text == "ok"
    assert [asked.text for asked in server.asked if asked.text == "why?"] == ["why?"] * 2


def test_an_answer_that_drips_for_ever_is_given_up(server: OpenAIServer, clock: DictatedClock) -> None:
    server.reply = first(Reply(drips=True))
    (generation,) = ask(server, "why?", clock=clock, timeout_s=1)
    assert generation.text == "ok"


def test_a_pause_that_the_endpoint_asks_for_holds_every_request(server: OpenAIServer, clock: DictatedClock) -> None:
    came: list[tuple[str, float]] = []

    def reply(asked: Asked) -> Reply:
        came.append((asked.text, clock.now_s))
        return first(refuse(429, headers={"Retry-After": "50"}))(asked)

    async def ask_in_turn() -> None:
        async with open_openai(server, clock) as engine:
            limited = asyncio.create_task(engine.generate(make_request(text="limited", images=0)))
            await wait_for(lambda: clock.slept)
            await engine.generate(make_request(text="other", images=0))
            await limited

    server.reply = reply
    run(ask_in_turn())
    assert came.pop(0) == ("limited", 1000)
    assert sorted(text for text, _ in came) == ["limited", "other"]
    assert all(at_s >= 1050 for _, at_s in came)


def test_a_pause_beyond_patience_gives_the_chunk_back_at_once_and_the_endpoint_is_left_alone(
    server: OpenAIServer, clock: DictatedClock
) -> None:
    server.reply = lambda _: refuse(429, "daily quota", headers={"Retry-After": "3000"})

    async def ask_twice() -> None:
        async with open_openai(server, clock) as engine:
            for number in range(2):
                with pytest.raises(TransientError, match="asked for a pause"):
                    await engine.generate(make_request(number, images=0))

    run(ask_twice())
    assert len(server.asked) == 1
    assert clock.now_s < 1000 + 300


# Faults that stay.


@pytest.mark.parametrize("reply", [refuse(503, "melting"), refuse(500, "melting"), refuse(429, "melting"), Reply(502, b"melting")])
def test_an_endpoint_that_answers_nobody_is_nobodys_fault_once_patience_ends(
    server: OpenAIServer, clock: DictatedClock, reply: Reply
) -> None:
    server.reply = lambda _: reply
    (error,) = ask(server, "why?", clock=clock, patience_s=200)
    assert isinstance(error, TransientError)
    assert "answered nothing for 200 s: HTTP" in str(error)
    assert "melting" in str(error)
    assert 1200 <= clock.now_s <= 1200 + 30


def test_an_endpoint_that_is_not_there_is_nobodys_fault_once_patience_ends(server: OpenAIServer, clock: DictatedClock) -> None:
    error, other = ask(server, "why?", "how?", clock=clock, base_url=AWAY)
    for one in (error, other):
        assert isinstance(one, TransientError)
        assert f"{AWAY} cannot be reached" in str(one)


def test_who_comes_after_patience_ended_has_patience_of_his_own(server: OpenAIServer, clock: DictatedClock) -> None:
    async def ask_twice() -> Generation:
        async with open_openai(server, clock) as engine:
            server.reply = lambda _: refuse(503)
            with pytest.raises(TransientError):
                await engine.generate(make_request(images=0))
            so_far = len(server.asked)
            server.reply = lambda asked: refuse(503) if asked.number < so_far + 3 else say()
            return await engine.generate(make_request(images=0))

    assert run(ask_twice()).text == "ok"


def fail_poison(asked: Asked) -> Reply:
    return refuse(500, "CUDA error") if "poison" in asked.text else say()


def test_a_request_that_fails_while_others_are_answered_is_at_fault(server: OpenAIServer, clock: DictatedClock) -> None:
    server.reply = fail_poison

    async def ask_both() -> None:
        async with open_openai(server, clock) as engine:
            poison = asyncio.create_task(engine.generate(make_request(text="poison", images=0)))
            while not poison.done():
                await engine.generate(make_request(images=0))
            with pytest.raises(SampleError, match=r"fails this request again and again.*HTTP 500: CUDA error") as caught:
                await poison
            assert caught.value.code == "engine_failed"

    run(ask_both())
    assert clock.now_s < 1000 + 300


def test_a_control_question_tells_a_request_that_fails_alone_from_an_outage(server: OpenAIServer, clock: DictatedClock) -> None:
    server.reply = fail_poison
    (error,) = ask(server, "poison", clock=clock)
    assert isinstance(error, SampleError)
    assert error.code == "engine_failed"
    controls = [asked for asked in server.asked if asked.text != "poison"]
    assert len(controls) == MOST_BLAME
    assert all(asked.body["max_tokens"] <= 16 and not asked.images for asked in controls)


def test_a_request_that_is_never_answered_is_given_up_after_four_tries_even_if_it_is_the_only_one(
    server: OpenAIServer, clock: DictatedClock
) -> None:
    server.reply = lambda asked: HANG if "endless" in asked.text else say()
    (error,) = ask(server, "endless", clock=clock, timeout_s=1)
    assert isinstance(error, SampleError)
    assert error.code == "engine_failed"
    assert "did not answer within 1 s" in str(error)
    assert sum(asked.text == "endless" for asked in server.asked) == 4


def test_a_limit_is_never_the_requests_fault(server: OpenAIServer, clock: DictatedClock) -> None:
    server.reply = lambda asked: refuse(429) if "unlucky" in asked.text and asked.number < 60 else say()

    async def ask_both() -> Generation:
        async with open_openai(server, clock) as engine:
            unlucky = asyncio.create_task(engine.generate(make_request(text="unlucky", images=0)))
            while not unlucky.done():
                await engine.generate(make_request(images=0))
            return await unlucky

    assert run(ask_both()).text == "ok"


@pytest.mark.parametrize(
    ("reply", "kind", "told"),
    [
        (refuse(401, f"Incorrect API key provided: {KEY}"), ConfigError, "environment variable OPENAI_API_KEY"),
        (refuse(404, "The model `some-model` does not exist"), ConfigError, "weights"),
        (refuse(429, "quota", code="insufficient_quota"), ConfigError, "no credit"),
        (refuse(400, f"bad image, by {KEY}"), SampleError, "HTTP 400: bad image, by ***"),
        (say(None, "content_filter"), SampleError, "withheld"),
    ],
)
def test_what_waiting_does_not_help_is_told_at_once_without_the_key(
    server: OpenAIServer, reply: Reply, kind: type[Exception], told: str
) -> None:
    server.reply = lambda _: reply
    (error,) = ask(server, "why?")
    assert isinstance(error, kind)
    assert told in str(error)
    assert KEY not in str(error)
    assert error.__suppress_context__ or error.__context__ is None
    assert len(server.asked) == 1


# Cancelling and stopping.


def test_a_cancelled_request_leaves_its_place_to_the_next(server: OpenAIServer) -> None:
    server.reply = first(HANG)

    async def cancel() -> Generation:
        async with open_openai(server, concurrency=1) as engine:
            hanging = asyncio.create_task(engine.generate(make_request(0, images=0)))
            await wait_for(lambda: server.asked)
            waiting = asyncio.create_task(engine.generate(make_request(1, images=0)))
            hanging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hanging
            return await waiting

    assert run(cancel()).text == "ok"


def test_a_stop_leaves_nobody_waiting_and_refuses_what_comes_later(server: OpenAIServer) -> None:
    server.reply = lambda _: HANG

    async def stop() -> list[Any]:
        async with open_openai(server, concurrency=3) as engine:
            asking = [asyncio.create_task(engine.generate(make_request(number, images=0))) for number in range(9)]
            await wait_for(lambda: server.at_once == 3)
        with pytest.raises(EngineError, match="not running"):
            await engine.generate(make_request())
        await engine.stop()
        return await asyncio.gather(*asking, return_exceptions=True)

    errors = run(stop())
    assert len(errors) == 9
    assert all(isinstance(error, EngineError) and "was stopped" in str(error) for error in errors)


# Starting.


def start(**options: Any) -> Coroutine[Any, Any, None]:
    return OpenAIEngine(make_profile("openai", options), "some-model").start()


def test_a_missing_key_stops_the_start_and_names_the_variable(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="profile tried: the environment variable OPENAI_API_KEY is not set"):
        run(start())


def test_a_patience_that_looks_like_a_stall_stops_the_start(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_ENGINE_STALL_S", "400")
    get_settings.cache_clear()
    with pytest.raises(ConfigError, match=r"patience_s=300 and timeout_s=120 .* may take 510 s, but FLEET_ENGINE_STALL_S=400"):
        run(start())


def test_several_engines_share_nothing(server: OpenAIServer) -> None:
    server.reply = lambda _: server.wait_for(2) or say()  # type: ignore[func-returns-value]  # as above

    async def ask_two() -> list[Generation]:
        async with open_openai(server, concurrency=1) as one, open_openai(server, concurrency=1) as other:
            both = await asyncio.gather(ask_all(one, [make_request(images=0)]), ask_all(other, [make_request(images=0)]))
            return [generation for generations in both for generation in generations]

    assert [generation.text for generation in run(ask_two())] == ["ok", "ok"]
