"""One worker's throughput: the rate of its own answers over the last 30 s, or None before the first answer."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.records import Outcome
from tests.support.fleet import Fleet, make_rows
from tests.support.planning import make_outcome, make_sample
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows, open_worker, read_samples
from workers.execution.chunk import run_chunk
from workers.runtime.throughput import Throughput


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Throughput:
    return Throughput(clock)


def answer(count: int, *, tokens: int | None = 5, took_s: float = 2.0) -> list[Outcome]:
    """Return outcomes with wall-clock times. The rate uses another clock."""
    timed = {"output_tokens": tokens, "started_at": 7000.0, "finished_at": 7000.0 + took_s}
    return [make_outcome(make_sample(number)).model_copy(update=timed) for number in range(count)]


def answer_steadily(pace: Throughput, clock: Clock, *, per_s: int, for_s: int) -> None:
    for _ in range(for_s):
        clock.now_s += 1
        pace.count(answer(per_s, took_s=1.0))


def test_rate_is_none_at_first_and_zero_when_idle(pace: Throughput, clock: Clock) -> None:
    clock.now_s += 100
    pace.count([])
    assert pace.measure() is None
    pace.count(answer(8))
    clock.now_s += 30
    assert pace.measure() == (0.0, 0.0)


@pytest.mark.parametrize("for_s", [1, 5, 30, 300])
def test_steady_rate_is_measured_from_the_start(pace: Throughput, clock: Clock, for_s: int) -> None:
    clock.now_s += 90  # while the engine loads
    answer_steadily(pace, clock, per_s=4, for_s=for_s)
    assert pace.measure() == pytest.approx((4.0, 20.0))


def test_only_the_last_thirty_seconds_count(pace: Throughput, clock: Clock) -> None:
    answer_steadily(pace, clock, per_s=100, for_s=60)
    answer_steadily(pace, clock, per_s=2, for_s=30)
    assert pace.measure() == pytest.approx((2.0, 10.0))


def test_rate_after_a_pause_ignores_the_pause(pace: Throughput, clock: Clock) -> None:
    answer_steadily(pace, clock, per_s=4, for_s=60)
    clock.now_s += 600
    answer_steadily(pace, clock, per_s=3, for_s=5)
    assert pace.measure() == pytest.approx((3.0, 15.0))


def test_failed_sample_counts_without_tokens(pace: Throughput, clock: Clock) -> None:
    clock.now_s += 2
    pace.count([*answer(2), *answer(2, tokens=None)])
    assert pace.measure() == (2.0, 5.0)


@pytest.mark.parametrize("took_s", [0.0, -3600.0])
def test_instant_answers_and_clock_steps_give_plausible_rates(pace: Throughput, took_s: float) -> None:
    pace.count(answer(64, took_s=took_s))
    assert pace.measure() == (64.0, 320.0)


def test_concurrent_threads_count_every_answer(pace: Throughput) -> None:
    answered = answer(3, took_s=1.0)

    def use(_: int) -> None:
        pace.count(answered)
        pace.measure()

    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(use, range(2000)))
    finally:
        sys.setswitchinterval(before_s)
    assert pace.measure() == (6000.0, 30000.0)


def test_rate_excludes_outcomes_read_from_a_journal(fleet: Fleet) -> None:
    fleet.write_profile("tried")
    run_id = enqueue_rows(fleet, "tried", make_rows(32))
    with open_worker(fleet, "tried", name="gpu0@test") as worker:
        assert fleet.workers("tried")[0].samples_per_s is None
        assert run_chunk(worker, run_id, 0) == "done"
        wait_until(lambda: fleet.workers("tried")[0].samples_per_s, "the rate in the worker's record")
        (record,) = fleet.workers("tried")
        assert record.tokens_per_s == record.samples_per_s, "the echo engine's answer is one token"
    with open_worker(fleet, "tried", name="gpu1@test") as worker:
        lease = worker.ledger.acquire(run_id, 1, "dead@test")
        assert lease is not None
        worker.ledger.journal(lease, [make_outcome(sample) for sample in read_samples(worker, run_id, 1)])
        worker.leases.give_back(lease)
        wait_until(lambda: fleet.status(run_id).state == "done", "the chunk to be taken over")
        assert worker.throughput.measure() is None
