"""Pacing, pauses, backoff and patience, with a controlled clock."""

import asyncio
from itertools import pairwise
from random import Random

import pytest

from common.errors import TransientError
from tests.support.engines.requests import run
from tests.support.faults.fake_clock import FakeClock
from workers.engines.openai.options import OpenAIOptions
from workers.engines.openai.pacing import MAX_ERROR_WEIGHT, Backoff, RateLimiter, ResponseTracker, RetryState


def pass_many(limiter: RateLimiter, clock: FakeClock, count: int) -> list[float]:
    """Return the times at which ``count`` concurrent requests pass the limiter."""

    async def pass_one() -> float:
        await limiter.wait()
        return clock.now_s

    async def pass_all() -> list[float]:
        return await asyncio.gather(*(pass_one() for _ in range(count)))

    passed: list[float] = run(pass_all())
    return passed


@pytest.mark.parametrize(
    ("options", "per_minute"),
    [({"requests_per_minute": 10}, 10), ({"requests_per_minute": 10, "request_delay_s": 12}, 5), ({"request_delay_s": 0.05}, 1200)],
)
def test_requests_per_minute_is_not_exceeded(options: dict[str, float], per_minute: int) -> None:
    clock = FakeClock()
    limiter = RateLimiter(OpenAIOptions.model_validate(options).interval_s, 300, clock.as_clock())
    starts = pass_many(limiter, clock, per_minute + 5)
    interval_s = 60 / per_minute
    assert starts[0] == 1000
    assert all(later - earlier == pytest.approx(interval_s) for earlier, later in pairwise(starts))


def test_limiter_without_limit_does_not_wait() -> None:
    clock = FakeClock()
    assert pass_many(RateLimiter(OpenAIOptions().interval_s, 300, clock.as_clock()), clock, 50) == [1000] * 50
    assert clock.slept == []


def test_longest_pause_delays_every_request() -> None:
    clock = FakeClock()
    limiter = RateLimiter(2, 300, clock.as_clock())
    limiter.pause(30)
    limiter.pause(10)
    assert pass_many(limiter, clock, 3) == [1030, 1032, 1034]


def test_pause_also_delays_a_waiting_request() -> None:
    clock = FakeClock()
    limiter = RateLimiter(10, 300, clock.as_clock())

    async def pass_twice() -> float:
        await limiter.wait()
        waiting = asyncio.create_task(limiter.wait())
        await asyncio.sleep(0)  # the request now sleeps
        limiter.pause(40)
        await waiting
        return clock.now_s

    assert run(pass_twice()) == 1050


def test_pause_beyond_patience_fails_immediately() -> None:
    """A later request waits if the rest of the pause is within the patience."""
    clock = FakeClock()
    limiter = RateLimiter(0, 300, clock.as_clock())
    limiter.pause(3600)
    with pytest.raises(TransientError, match="requested a pause, of which 3600 s are left"):
        pass_many(limiter, clock, 1)
    assert clock.slept == []
    clock.now_s += 3400
    assert pass_many(limiter, clock, 1) == [1000 + 3600]


def test_cancelled_request_does_not_block_the_next() -> None:
    limiter = RateLimiter(0, 300, FakeClock().as_clock())

    async def cancel_first() -> None:
        async with limiter._lock:  # noqa: SLF001  # another request holds the lock
            first, second = (asyncio.create_task(limiter.wait()) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
        await second

    run(cancel_first())


def test_backoff_is_jittered_up_to_doubling_bound() -> None:
    for seed in range(200):
        backoff = Backoff(Random(seed))
        waits = [backoff.next_s() for _ in range(8)]
        assert all(0 <= wait <= bound for wait, bound in zip(waits, (1, 2, 4, 8, 16, 30, 30, 30), strict=True))
    firsts = [Backoff(Random(seed)).next_s() for seed in range(200)]
    assert min(firsts) < 0.1
    assert max(firsts) > 0.9


def test_backoff_is_deterministic_for_a_seed() -> None:
    one, other = Backoff(Random(5)), Backoff(Random(5))
    assert [one.next_s() for _ in range(9)] == [other.next_s() for _ in range(9)]


def test_each_answer_resets_patience() -> None:
    """Patience ends if the endpoint does not answer any request for that time."""
    clock = FakeClock()
    responses = ResponseTracker(clock.as_clock())
    state = RetryState(responses, 100, clock.as_clock())
    clock.now_s += 99
    assert not state.is_patience_over()
    responses.record()
    clock.now_s += 99
    assert not state.is_patience_over()
    clock.now_s += 1
    assert state.is_patience_over()
    assert not RetryState(responses, 100, clock.as_clock()).is_patience_over()  # a later request starts with full patience


def test_request_that_fails_alone_is_at_fault() -> None:
    clock = FakeClock()
    responses = ResponseTracker(clock.as_clock())
    state = RetryState(responses, 100, clock.as_clock())
    for _ in range(20):  # an outage
        state.record_error(1)
    for _ in range(20):  # rate limits
        responses.record()
        state.record_error(0)
    assert state.error_weight == 0
    for number in range(MAX_ERROR_WEIGHT):
        assert not state.is_at_fault, number
        responses.record()
        state.record_error(1)
    assert state.is_at_fault


def test_rate_limits_count_only_after_patience() -> None:
    clock = FakeClock()
    responses = ResponseTracker(clock.as_clock())
    state = RetryState(responses, 100, clock.as_clock())
    clock.now_s += 99
    state.record_error(0)
    ended_before = state.patience_ended
    clock.now_s += 1
    state.record_error(0)
    assert (ended_before, state.patience_ended) == (False, True)
    state.record_error(0)
    assert state.error_weight == 0  # the endpoint did not answer any request
    for _ in range(3):
        assert not state.is_at_fault
        responses.record()
        state.record_error(0)
    assert state.is_at_fault
