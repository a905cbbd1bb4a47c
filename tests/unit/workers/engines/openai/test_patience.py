"""The openai engine against a failing endpoint: retries, their duration and the final error class."""

import asyncio

import pytest

from common.errors import ConfigError, SampleError, TransientError
from tests.support.engines.openai_asking import answer_first, ask, clock, open_openai, server, wait_for
from tests.support.engines.requests import make_request, run
from tests.support.faults.fake_clock import FakeClock
from tests.support.servers.openai_server import CUT, HANG, KEY, PAGE, Asked, OpenAIServer, Reply, refuse, say, say_json
from workers.engines.base import Generation
from workers.engines.openai.pacing import MAX_ERROR_WEIGHT

__all__ = ["clock", "server"]  # fixtures

UNREACHABLE = "http://127.0.0.1:1/v1"  # no server listens on port 1
FORBIDDEN = Reply(403, b"<html><head><title>403 Forbidden</title></head><body>nginx</body></html>", {"Content-Type": "text/html"})


# Temporary faults.


@pytest.mark.parametrize(
    "fault",
    [
        refuse(500), refuse(503, headers={"Retry-After": "0"}), refuse(429), refuse(408), CUT, PAGE, Reply(),
        say_json({"choices": []}), say_json({"error": {"message": "upstream", "code": 502}}),
        Reply(200, b"<html><title>Welcome to our Wi-Fi</title>"),
        Reply(200, b'{"choices": [', {"Content-Type": "application/json"}), Reply(200, b"\x1f\x8b", {"Content-Encoding": "gzip"}),
    ],
)  # fmt: skip
def test_temporary_fault_is_retried_with_same_body(server: OpenAIServer, clock: FakeClock, fault: Reply) -> None:
    server.reply = answer_first(fault, fault)
    (generation,) = ask(server, "why?", clock=clock)
    assert generation.text == "ok"
    assert [asked.body for asked in server.asked] == [server.asked[0].body] * 3
    assert all(wait_s <= bound_s for wait_s, bound_s in zip(clock.slept, (1, 2), strict=True))


def test_unanswered_request_times_out_and_is_retried(server: OpenAIServer, clock: FakeClock) -> None:
    server.reply = answer_first(HANG)
    (generation,) = ask(server, "why?", clock=clock, timeout_s=1)
    assert generation.text == "ok"
    assert [asked.text for asked in server.asked if asked.text == "why?"] == ["why?"] * 2


def test_endless_slow_answer_times_out(server: OpenAIServer, clock: FakeClock) -> None:
    server.reply = answer_first(Reply(drips=True))
    (generation,) = ask(server, "why?", clock=clock, timeout_s=1)
    assert generation.text == "ok"


def test_requested_pause_delays_every_request(server: OpenAIServer, clock: FakeClock) -> None:
    arrivals: list[tuple[str, float]] = []

    def reply(asked: Asked) -> Reply:
        arrivals.append((asked.text, clock.now_s))
        return answer_first(refuse(429, headers={"Retry-After": "50"}))(asked)

    async def ask_both() -> None:
        async with open_openai(server, clock) as engine:
            limited = asyncio.create_task(engine.generate(make_request(text="limited", images=0)))
            await wait_for(lambda: clock.slept)
            await engine.generate(make_request(text="other", images=0))
            await limited

    server.reply = reply
    run(ask_both())
    assert arrivals.pop(0) == ("limited", 1000)
    assert sorted(text for text, _ in arrivals) == ["limited", "other"]
    assert all(at_s >= 1050 for _, at_s in arrivals)


def test_pause_beyond_patience_releases_the_chunk(server: OpenAIServer, clock: FakeClock) -> None:
    """The engine does not send requests to the endpoint during the pause."""
    server.reply = lambda _: refuse(429, "daily quota", headers={"Retry-After": "3000"})

    async def ask_twice() -> None:
        async with open_openai(server, clock) as engine:
            for number in range(2):
                with pytest.raises(TransientError, match="requested a pause"):
                    await engine.generate(make_request(number, images=0))

    run(ask_twice())
    assert len(server.asked) == 1
    assert clock.now_s < 1000 + 300


# Permanent faults.


@pytest.mark.parametrize("reply", [refuse(503, "melting"), refuse(500, "melting"), refuse(429, "melting"), Reply(502, b"melting")])
def test_failing_endpoint_is_transient_after_patience(server: OpenAIServer, clock: FakeClock, reply: Reply) -> None:
    server.reply = lambda _: reply
    (error,) = ask(server, "why?", clock=clock, patience_s=200)
    assert isinstance(error, TransientError)
    assert "the endpoint has been unavailable for 200 s; last error: HTTP" in str(error)
    assert "melting" in str(error)
    assert 1200 <= clock.now_s <= 1200 + 30


def test_unreachable_endpoint_is_transient_after_patience(server: OpenAIServer, clock: FakeClock) -> None:
    error, other = ask(server, "why?", "how?", clock=clock, base_url=UNREACHABLE)
    for one in (error, other):
        assert isinstance(one, TransientError)
        assert f"{UNREACHABLE} cannot be reached" in str(one)


def test_later_request_has_its_own_patience(server: OpenAIServer, clock: FakeClock) -> None:
    async def ask_twice() -> Generation:
        async with open_openai(server, clock) as engine:
            server.reply = lambda _: refuse(503)
            with pytest.raises(TransientError):
                await engine.generate(make_request(images=0))
            sent = len(server.asked)
            server.reply = lambda asked: refuse(503) if asked.number < sent + 3 else say()
            return await engine.generate(make_request(images=0))

    assert run(ask_twice()).text == "ok"


def fail_poison(asked: Asked) -> Reply:
    return refuse(500, "CUDA error") if "poison" in asked.text else say()


def test_request_that_fails_among_successes_is_at_fault(server: OpenAIServer, clock: FakeClock) -> None:
    server.reply = fail_poison

    async def ask_both() -> None:
        async with open_openai(server, clock) as engine:
            poison = asyncio.create_task(engine.generate(make_request(text="poison", images=0)))
            while not poison.done():
                await engine.generate(make_request(images=0))
            with pytest.raises(SampleError, match=r"fails this request repeatedly.*HTTP 500: CUDA error") as caught:
                await poison
            assert caught.value.code == "engine_failed"

    run(ask_both())
    assert clock.now_s < 1000 + 300


def test_control_request_separates_bad_request_from_outage(server: OpenAIServer, clock: FakeClock) -> None:
    server.reply = fail_poison
    (error,) = ask(server, "poison", clock=clock)
    assert isinstance(error, SampleError)
    assert error.code == "engine_failed"
    controls = [asked for asked in server.asked if asked.text != "poison"]
    assert len(controls) == MAX_ERROR_WEIGHT
    assert all(asked.body["max_tokens"] <= 16 and not asked.images for asked in controls)


def test_unanswered_request_fails_after_four_tries(server: OpenAIServer, clock: FakeClock) -> None:
    """The request fails even if it is the only request."""
    server.reply = lambda asked: HANG if "endless" in asked.text else say()
    (error,) = ask(server, "endless", clock=clock, timeout_s=1)
    assert isinstance(error, SampleError)
    assert error.code == "engine_failed"
    assert "did not answer within 1 s" in str(error)
    assert sum(asked.text == "endless" for asked in server.asked) == 4


def test_rate_limit_is_not_attributed_to_the_request(server: OpenAIServer, clock: FakeClock) -> None:
    server.reply = lambda asked: refuse(429) if "unlucky" in asked.text and asked.number < 60 else say()

    async def ask_both() -> Generation:
        async with open_openai(server, clock) as engine:
            unlucky = asyncio.create_task(engine.generate(make_request(text="unlucky", images=0)))
            while not unlucky.done():
                await engine.generate(make_request(images=0))
            return await unlucky

    assert run(ask_both()).text == "ok"


@pytest.mark.parametrize(
    "fault", [refuse(429, "too large"), refuse(429, headers={"Retry-After": "40"}), refuse(503, "upstream failed")]
)
def test_rate_limit_on_one_request_fails_the_sample(server: OpenAIServer, clock: FakeClock, fault: Reply) -> None:
    server.reply = lambda asked: fault if asked.text == "big" else say()
    (error,) = ask(server, "big", clock=clock, patience_s=200)
    assert isinstance(error, SampleError)
    assert error.code == "engine_failed"
    assert "fails this request repeatedly but answers other requests: HTTP" in str(error)
    assert 1200 <= clock.now_s <= 1200 + 40 + 4 * 30
    assert sum(asked.text != "big" for asked in server.asked) == 3, "the engine does not send control requests before patience ends"


def test_limit_that_ends_with_patience_is_retried(server: OpenAIServer, clock: FakeClock) -> None:
    server.reply = lambda asked: refuse(429) if asked.text == "big" and clock.now_s < 1200 + 20 else say()
    (generation,) = ask(server, "big", clock=clock, patience_s=200)
    assert generation.text == "ok"


def test_pause_of_failing_request_does_not_delay_others(server: OpenAIServer, clock: FakeClock) -> None:
    server.reply = lambda asked: refuse(429, headers={"Retry-After": "90"}) if asked.text == "big" else say()

    async def ask_both() -> float:
        async with open_openai(server, clock, patience_s=200) as engine:
            with pytest.raises(SampleError):
                await engine.generate(make_request(text="big", images=0))
            ended_at_s = clock.now_s
            await engine.generate(make_request(text="small", images=0))
            return clock.now_s - ended_at_s

    assert run(ask_both()) == 0


def test_pause_of_all_requests_delays_the_next(server: OpenAIServer, clock: FakeClock) -> None:
    server.reply = lambda _: refuse(429, headers={"Retry-After": "90"})

    async def ask_twice() -> float:
        async with open_openai(server, clock, patience_s=200) as engine:
            with pytest.raises(TransientError, match="endpoint has been unavailable for 200 s"):
                await engine.generate(make_request(images=0))
            ended_at_s = clock.now_s
            server.reply = lambda _: say()
            await engine.generate(make_request(images=0))
            return clock.now_s - ended_at_s

    assert run(ask_twice()) == 90


def test_firewall_page_for_one_request_fails_the_sample(server: OpenAIServer, clock: FakeClock) -> None:
    server.reply = lambda asked: FORBIDDEN if "poison" in asked.text else say(asked.text)
    *others, error = ask(server, *map(str, range(6)), "poison", clock=clock)
    assert [other.text for other in others] == [str(number) for number in range(6)]
    assert isinstance(error, SampleError)
    assert error.code == "engine_failed"
    assert "HTTP 403: 403 Forbidden" in str(error)


def test_firewall_page_for_all_is_config_error(server: OpenAIServer, clock: FakeClock) -> None:
    server.reply = lambda _: FORBIDDEN
    (error,) = ask(server, "why?", clock=clock)
    assert isinstance(error, ConfigError)
    assert f"{server.url}: a firewall refuses every request: check engine_options.base_url, HTTPS_PROXY" in str(error)
    assert clock.now_s >= 1300


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (refuse(401, f"Incorrect API key provided: {KEY}"), ConfigError, "environment variable OPENAI_API_KEY"),
        (refuse(404, "The model `some-model` does not exist"), ConfigError, "weights"),
        (refuse(429, "quota", code="insufficient_quota"), ConfigError, "no credit"),
        (refuse(400, f"bad image, by {KEY}"), SampleError, "HTTP 400: bad image, by ***"),
        (say(None, "content_filter"), SampleError, "withheld"),
    ],
)
def test_permanent_error_is_raised_without_the_key(server: OpenAIServer, reply: Reply, kind: type[Exception], message: str) -> None:
    server.reply = lambda _: reply
    (error,) = ask(server, "why?")
    assert isinstance(error, kind)
    assert message in str(error)
    assert KEY not in str(error)
    assert error.__suppress_context__ or error.__context__ is None
    assert len(server.asked) == 1
