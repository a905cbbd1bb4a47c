"""A chunk is leased, answered, journaled, written and committed. A successor continues after the last finished step."""

import threading
from collections.abc import Iterator

import pytest

from common.deaths import DeathCause
from common.errors import EngineError, TransientError
from common.exit_codes import ENGINE_DIED
from common.records import Outcome, Sample, Standing
from common.storage.keys import part_key
from common.storage.parts import encode_part
from common.storage.plan_index import read_part
from tests.support.fleet import Fleet, make_rows
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import Exited, ScriptedEngine, enqueue_rows, exits, open_worker, read_samples
from workers.engines.base import Request
from workers.execution.chunk import run_chunk, write_part
from workers.runtime.worker import Worker

__all__ = ["exits"]  # a fixture


@pytest.fixture
def worker(fleet: Fleet) -> Iterator[Worker]:
    fleet.write_profile("tried", engine_options={"table": [{"match": "slow", "fault": "hang"}]})
    with open_worker(fleet, "tried", drain_grace_s=600) as worker:
        yield worker


def make_outcome(sample: Sample, prediction: str) -> Outcome:
    return Outcome(
        sample_id=sample.sample_id, dataset=sample.dataset, index=sample.index, model="tried", status="ok", prediction=prediction
    )


def test_run_of_two_chunks_is_consistent(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(20))
    assert [run_chunk(worker, run_id, number) for number in (1, 0)] == ["done", "done"]
    assert {outcome.prediction for outcome in assert_run_is_sound(fleet, run_id)} == {"ok"}
    assert worker.keeper.leases == []


def test_done_held_or_unknown_chunk_does_not_run(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(20))
    assert run_chunk(worker, run_id, 0) == "done"
    assert worker.ledger.acquire(run_id, 1, "another@worker")
    worker.host.engine = engine = ScriptedEngine("never")
    forgotten = enqueue_rows(fleet, "tried", make_rows(21))
    worker.ledger.forget_run(forgotten)
    assert [run_chunk(worker, run, number) for run, number in ((run_id, 0), (run_id, 1), (forgotten, 0))] == ["not needed"] * 3
    assert engine.asked == []


def test_draining_worker_does_not_take_a_chunk(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    worker.leases.drain()
    assert run_chunk(worker, run_id, 0) == "not needed"
    assert worker.ledger.acquire(run_id, 0, "another@worker"), "it was never leased"


def test_existing_part_is_committed_without_the_engine(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    samples = read_samples(worker, run_id)
    write_part(worker.store, worker.runs.load(run_id).index[0], [make_outcome(sample, "before") for sample in samples])
    worker.host.engine = engine = ScriptedEngine("never")
    assert run_chunk(worker, run_id, 0) == "done"
    assert engine.asked == []
    assert {outcome.prediction for outcome in assert_run_is_sound(fleet, run_id)} == {"before"}


def test_second_writer_gets_the_existing_part(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    chunk = worker.runs.load(run_id).index[0]
    first, second = ([make_outcome(sample, answer) for sample in read_samples(worker, run_id)] for answer in ("first", "second"))
    won, lost = write_part(worker.store, chunk, first), write_part(worker.store, chunk, second)
    assert won == lost == read_part(worker.store, chunk)
    assert {outcome.prediction for outcome in lost.outcomes} == {"first"}


def test_part_of_a_faster_worker_is_committed(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    samples = read_samples(worker, run_id)

    def answer_too_late(request: Request) -> str:
        outcomes = [make_outcome(sample, "winner") for sample in samples]
        worker.store.put_new(part_key(run_id, 1, 0), encode_part(run_id, 0, outcomes))
        return "loser"

    worker.host.engine = ScriptedEngine(answer_too_late)
    assert run_chunk(worker, run_id, 0) == "done"
    assert {outcome.prediction for outcome in assert_run_is_sound(fleet, run_id)} == {"winner"}


def test_successor_sends_only_missing_samples(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(8))
    samples = read_samples(worker, run_id)
    before = worker.ledger.acquire(run_id, 0, "dead@worker")
    assert before is not None
    worker.ledger.journal(before, [make_outcome(sample, "before") for sample in samples[:5]])
    worker.ledger.release(before)
    worker.host.engine = engine = ScriptedEngine("after")
    assert run_chunk(worker, run_id, 0) == "done"
    assert {request.request_id for request in engine.asked} == {sample.sample_id for sample in samples[5:]}
    assert [outcome.prediction for outcome in assert_run_is_sound(fleet, run_id)] == ["before"] * 5 + ["after"] * 3


def test_finished_samples_are_journaled_before_slow_ones(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", [*make_rows(5), {"id": "s", "question": "slow?", "target": "ok"}])
    words: list[str] = []
    running = threading.Thread(target=lambda: words.append(run_chunk(worker, run_id, 0)))
    running.start()
    (lease,) = wait_until(lambda: worker.keeper.leases, "the chunk to be held")
    journal = wait_until(lambda: found if len(found := worker.ledger.read_journal(lease)) == 5 else None, "five outcomes")
    worker.leases.drain(at_once=True)
    running.join(timeout=20)
    assert words == ["given back"]
    assert worker.ledger.read_journal(lease) == journal
    view = worker.ledger.view_run(run_id)
    assert view is not None
    assert view.holders == {}


def test_lost_lease_stops_the_chunk(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", [{"id": "s", "question": "slow?", "target": "ok"}])
    words: list[str] = []
    running = threading.Thread(target=lambda: words.append(run_chunk(worker, run_id, 0)))
    running.start()
    (lease,) = wait_until(lambda: worker.keeper.leases, "the chunk to be held")
    worker.ledger.release(lease)
    successor = worker.ledger.acquire(run_id, 0, "another@worker")
    assert successor is not None
    running.join(timeout=20)
    assert words == ["given back"]
    assert worker.ledger.release(successor), "the successor still has its lease"


def test_dead_engine_releases_chunk_with_its_journal(worker: Worker, fleet: Fleet, exits: list[int]) -> None:
    def answer(request: Request) -> str:
        if len(worker.host.engine.asked) == 4:  # type: ignore[attr-defined]  # a scripted engine
            raise EngineError("gone")
        return "ok"

    worker.host.engine = ScriptedEngine(answer)
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    with pytest.raises(Exited):
        run_chunk(worker, run_id, 0)
    assert exits == [ENGINE_DIED]
    assert worker.ledger.expire_leases(run_id) == [0], "the chunk must be offered to other workers immediately"
    lease = worker.ledger.acquire(run_id, 0, "successor@worker")
    assert lease is not None
    assert lease.standing == Standing.STRUCK
    assert len(worker.ledger.read_journal(lease)) == 3


def test_unreachable_engine_in_a_trial_is_not_a_crash(fleet: Fleet) -> None:
    def answer(request: Request) -> str:
        raise TransientError("the endpoint does not answer")

    fleet.write_profile("tried")
    with open_worker(fleet, "tried", lease_s=0.5, renew_s=0.1, janitor_s=600) as worker:
        worker.host.engine = engine = ScriptedEngine(answer)
        run_id = enqueue_rows(fleet, "tried", make_rows(1))  # after the only sweep of the worker's janitor
        before = fleet.ledger.acquire(run_id, 0, "died@test")
        assert before is not None
        fleet.ledger.release(before, death=DeathCause.CRASH)
        again = fleet.ledger.acquire(run_id, 0, "died@test")
        assert again is not None
        fleet.ledger.release(again, death=DeathCause.CRASH)
        for times in range(1, 4):
            wait_until(lambda: fleet.ledger.expire_leases(run_id), "the chunk to be offered again")
            with pytest.raises(TransientError):
                run_chunk(worker, run_id, 0)
            assert len(engine.asked) == times
    lease = wait_until(lambda: fleet.ledger.acquire(run_id, 0, "next@test"), "a lease")
    assert lease.standing == Standing.QUARANTINED
    assert fleet.ledger.read_deaths(lease) == {}


def test_largest_allowed_chunk_completes(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(4096), chunk=4096)
    assert run_chunk(worker, run_id, 0) == "done"
    assert len(assert_run_is_sound(fleet, run_id)) == 4096
