"""Two workers write and commit the same chunk at the same moment: one complete part wins, and the ledger counts it once."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, NamedTuple

import pytest

from common.ledger.keys import journal_key, run_keys
from common.ledger.ledger import Ledger
from common.records import Chunk, Outcome, Part
from common.storage.store import Store
from tests.support.fleet import Fleet, make_rows
from tests.support.soundness import assert_run_is_sound
from tests.support.workers import ScriptedEngine, enqueue_rows, open_worker
from workers.execution import chunk as chunk_module
from workers.execution.chunk import run_chunk
from workers.runtime.worker import Worker

ROUNDS = 40
CHUNK_SAMPLES = 4
DEADLINE_S = 30.0
Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")


def say(side: str, sample_id: str) -> str:
    """Return a side's answer: its name. The right side gives an empty answer, which is invalid, for a third of the samples."""
    return "" if side == "right" and int(sample_id[:8], 16) % 3 == 0 else side


class OrderedBarrier:
    """A barrier that releases both sides at the same moment, or the ``first`` side before the other side."""

    def __init__(self, first: Side | None) -> None:
        self.first = first
        self._both_arrived = threading.Barrier(len(SIDES))
        self._first_passed = threading.Event()

    @contextmanager
    def pass_through(self) -> Iterator[None]:
        side = threading.current_thread().name
        self._both_arrived.wait(DEADLINE_S)
        if self.first not in (None, side):
            assert self._first_passed.wait(DEADLINE_S)
        yield
        if side == self.first:
            self._first_passed.set()


class Round(NamedTuple):
    """The race of two workers for one chunk.

    The barriers determine which worker writes the part first and which worker commits first. ``raised`` lists the numbers of
    samples that the commits counted, in the order of the commits.
    """

    before_part: OrderedBarrier
    before_commit: OrderedBarrier
    raised: list[int]
    left_has_answered: threading.Event


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> dict[int, Round]:
    """Return the races by chunk number; both sides wait for each other at the barriers of a race."""
    races: dict[int, Round] = {}
    write_part, commit = chunk_module.write_part, Ledger.commit

    def write_together(store: Store, chunk: Chunk, outcomes: Sequence[Outcome]) -> Part:
        if threading.current_thread().name == "left":
            races[chunk.number].left_has_answered.set()
        with races[chunk.number].before_part.pass_through():
            return write_part(store, chunk, outcomes)

    def commit_together(ledger: Ledger, chunk: Chunk, part: Part, datasets: dict[str, int]) -> int:
        with races[chunk.number].before_commit.pass_through():
            races[chunk.number].raised.append(raised := commit(ledger, chunk, part, datasets))
        return raised

    monkeypatch.setattr(chunk_module, "write_part", write_together)
    monkeypatch.setattr(Ledger, "commit", commit_together)
    return races


def lose_lease_and_journal(fleet: Fleet, run_id: str, number: int) -> None:
    """Delete the lease and the journal of a chunk, so that the successor sends every sample again."""
    assert fleet.ledger.client.zrem(run_keys(run_id).leases, number) == 1
    assert fleet.ledger.client.delete(journal_key(run_id, number)) == 1


def race(fleet: Fleet, workers: dict[Side, Worker], run_id: str, number: int, this: Round) -> None:
    """Run a chunk on the left up to its part, delete its lease, run it on the right, and let both continue together."""
    with ThreadPoolExecutor(len(SIDES)) as pool:
        left = pool.submit(run_named, "left", run_chunk, workers["left"], run_id, number)
        assert this.left_has_answered.wait(DEADLINE_S)
        lose_lease_and_journal(fleet, run_id, number)
        right = pool.submit(run_named, "right", run_chunk, workers["right"], run_id, number)
        assert (left.result(DEADLINE_S), right.result(DEADLINE_S)) == ("done", "done")


def run_named(name: str, function: Callable[[Worker, str, int], str], worker: Worker, run_id: str, number: int) -> str:
    threading.current_thread().name = name
    return function(worker, run_id, number)


@pytest.mark.parametrize("seed", [1, 2])
def test_simultaneous_commits_are_counted_once(fleet: Fleet, rounds: dict[int, Round], seed: int) -> None:
    fleet.write_profile("both")
    run_id = enqueue_rows(fleet, "both", make_rows(ROUNDS * CHUNK_SAMPLES), chunk=CHUNK_SAMPLES, validation={"max_attempts": 1})
    draw = random.Random(seed)
    quiet = {"lease_s": 600, "renew_s": 300}  # heartbeat and janitor do not run during the test
    with open_worker(fleet, "both", name="left", **quiet) as left, open_worker(fleet, "both", name="right", **quiet) as right:
        workers: dict[Side, Worker] = {"left": left, "right": right}
        for side, worker in workers.items():
            worker.host.engine = ScriptedEngine(lambda request, side=side: say(side, request.request_id))  # type: ignore[misc]  # bound by default
        for number in range(ROUNDS):
            orders = [draw.choice((None, None, *SIDES)) for _ in range(2)]
            rounds[number] = Round(OrderedBarrier(orders[0]), OrderedBarrier(orders[1]), [], threading.Event())
            race(fleet, workers, run_id, number, rounds[number])
            assert sorted(rounds[number].raised) == [0, CHUNK_SAMPLES], "exactly one commit must count the chunk"

    outcomes = assert_run_is_sound(fleet, run_id)
    for number, this in rounds.items():
        winners = {outcome.worker for outcome in outcomes[number * CHUNK_SAMPLES :][:CHUNK_SAMPLES]}
        assert winners in ([{this.before_part.first}] if this.before_part.first else [{"left"}, {"right"}])
    assert {outcome.worker for outcome in outcomes} == set(SIDES)
    for outcome in outcomes:
        expected = say(outcome.worker or "", outcome.sample_id)
        assert (outcome.response, outcome.status) == (expected, "ok" if expected else "invalid")
    counted = fleet.status(run_id).samples
    assert (counted.ok, counted.invalid) == tuple(sum(one.status == status for one in outcomes) for status in ("ok", "invalid"))
