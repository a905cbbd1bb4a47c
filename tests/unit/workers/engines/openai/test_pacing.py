"""Pacing, pauses, backoff and patience, by a dictated clock."""

import asyncio
from itertools import pairwise
from random import Random

import pytest

from common.errors import TransientError
from tests.support.engines.requests import run
from tests.support.faults.dictated_clock import DictatedClock
from workers.engines.openai.options import OpenAIOptions
from workers.engines.openai.pacing import MOST_BLAME, Backoff, Gate, Pulse, Trial


def pass_many(gate: Gate, clock: DictatedClock, count: int) -> list[float]:
    """Return when each of ``count`` requests, which come all at once, passes the gate."""

    async def pass_one() -> float:
        await gate.pass_through()
        return clock.now_s

    async def pass_all() -> list[float]:
        return await asyncio.gather(*(pass_one() for _ in range(count)))

    passed: list[float] = run(pass_all())
    return passed


@pytest.mark.parametrize(
    ("options", "per_minute"),
    [({"requests_per_minute": 10}, 10), ({"requests_per_minute": 10, "request_delay_s": 12}, 5), ({"request_delay_s": 0.05}, 1200)],
)
def test_no_minute_sees_more_requests_than_asked_for(options: dict[str, float], per_minute: int) -> None:
    clock = DictatedClock()
    gate = Gate(OpenAIOptions.model_validate(options).interval_s, 300, clock.as_clock())
    starts = pass_many(gate, clock, per_minute + 5)
    interval_s = 60 / per_minute
    assert starts[0] == 1000
    assert all(later - earlier == pytest.approx(interval_s) for earlier, later in pairwise(starts))


def test_without_limits_nobody_waits() -> None:
    clock = DictatedClock()
    assert pass_many(Gate(OpenAIOptions().interval_s, 300, clock.as_clock()), clock, 50) == [1000] * 50
    assert clock.slept == []


def test_a_pause_holds_everybody_and_the_longer_of_two_counts() -> None:
    clock = DictatedClock()
    gate = Gate(2, 300, clock.as_clock())
    gate.pause(30)
    gate.pause(10)
    assert pass_many(gate, clock, 3) == [1030, 1032, 1034]


def test_a_pause_that_comes_while_somebody_waits_holds_him_too() -> None:
    clock = DictatedClock()
    gate = Gate(10, 300, clock.as_clock())

    async def pass_in_turn() -> float:
        await gate.pass_through()
        waiting = asyncio.create_task(gate.pass_through())
        await asyncio.sleep(0)  # it sleeps
        gate.pause(40)
        await waiting
        return clock.now_s

    assert run(pass_in_turn()) == 1050


def test_a_pause_longer_than_the_patience_is_told_at_once_and_waited_for_once_it_is_shorter() -> None:
    clock = DictatedClock()
    gate = Gate(0, 300, clock.as_clock())
    gate.pause(3600)
    with pytest.raises(TransientError, match="asked for a pause, and 3600 s of it are left"):
        pass_many(gate, clock, 1)
    assert clock.slept == []
    clock.now_s += 3400
    assert pass_many(gate, clock, 1) == [1000 + 3600]


def test_whoever_is_cancelled_at_the_gate_leaves_the_turn_to_the_next() -> None:
    gate = Gate(0, 300, DictatedClock().as_clock())

    async def cancel_first() -> None:
        async with gate._turn:  # noqa: SLF001  # the turn of somebody who takes his time
            first, second = (asyncio.create_task(gate.pass_through()) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
        await second

    run(cancel_first())


def test_backoff_is_anything_up_to_a_bound_that_doubles_to_half_a_minute() -> None:
    for seed in range(200):
        backoff = Backoff(Random(seed))
        waits = [backoff.next_s() for _ in range(8)]
        assert all(0 <= wait <= bound for wait, bound in zip(waits, (1, 2, 4, 8, 16, 30, 30, 30), strict=True))
    firsts = [Backoff(Random(seed)).next_s() for seed in range(200)]
    assert min(firsts) < 0.1
    assert max(firsts) > 0.9


def test_the_same_seed_waits_the_same() -> None:
    one, other = Backoff(Random(5)), Backoff(Random(5))
    assert [one.next_s() for _ in range(9)] == [other.next_s() for _ in range(9)]


def test_patience_ends_when_nobody_was_answered_for_so_long_and_an_answer_to_anybody_renews_it() -> None:
    clock = DictatedClock()
    pulse = Pulse(clock.as_clock())
    trial = Trial(pulse, 100, clock.as_clock())
    clock.now_s += 99
    assert not trial.is_over()
    pulse.beat()
    clock.now_s += 99
    assert not trial.is_over()
    clock.now_s += 1
    assert trial.is_over()
    assert not Trial(pulse, 100, clock.as_clock()).is_over()  # who comes later has patience of his own


def test_a_request_is_at_fault_once_it_failed_often_while_others_were_answered() -> None:
    clock = DictatedClock()
    pulse = Pulse(clock.as_clock())
    trial = Trial(pulse, 100, clock.as_clock())
    for _ in range(20):  # an outage
        trial.note_fault(1)
    for _ in range(20):  # limits
        pulse.beat()
        trial.note_fault(0)
    assert trial.blame == 0
    for number in range(MOST_BLAME):
        assert not trial.is_at_fault, number
        pulse.beat()
        trial.note_fault(1)
    assert trial.is_at_fault


def test_limits_count_once_patience_has_ended_and_others_are_answered_all_the_same() -> None:
    clock = DictatedClock()
    pulse = Pulse(clock.as_clock())
    trial = Trial(pulse, 100, clock.as_clock())
    clock.now_s += 99
    trial.note_fault(0)
    doubted_before = trial.is_doubted
    clock.now_s += 1
    trial.note_fault(0)
    assert (doubted_before, trial.is_doubted) == (False, True)
    trial.note_fault(0)
    assert trial.blame == 0  # nobody was answered
    for _ in range(3):
        assert not trial.is_at_fault
        pulse.beat()
        trial.note_fault(0)
    assert trial.is_at_fault
