"""Quarantine inside the test's process: each engine death ends one worker, and the next worker continues."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from common.storage.plan_index import read_chunk, read_index
from tests.support.engines.poison import assert_only_poison_failed, write_poisoned_profile
from tests.support.fleet import Fleet, make_rows
from tests.support.waiting import wait_until
from tests.support.workers import Exited, enqueue_rows, exits, open_worker
from workers.execution.chunk import run_chunk

__all__ = ["exits"]  # a fixture


def finish_run(fleet: Fleet, run_id: str) -> None:
    """Run the pending chunks, in one worker after the other, until all are done."""
    while fleet.ledger.find_pending(run_id):
        with open_worker(fleet, "poisoned", janitor_s=600) as worker:
            try:
                for number in worker.ledger.find_pending(run_id):
                    run_chunk(worker, run_id, number)
            except Exited:
                continue


def test_several_poisons_in_a_chunk_are_found(fleet: Fleet, exits: list[int]) -> None:
    write_poisoned_profile(fleet, "raises")
    poisons = [{"id": f"poison {number}", "question": f"poison {number}?", "target": "ok"} for number in range(3)]
    run_id = enqueue_rows(fleet, "poisoned", [*make_rows(9), *poisons], chunk=12)
    finish_run(fleet, run_id)
    assert_only_poison_failed(fleet, run_id, {"poison 0", "poison 1", "poison 2"})
    assert len(exits) == 3 * 3, "each poison must kill the engine once among others and twice alone"


def test_chunk_of_poison_completes(fleet: Fleet, exits: list[int]) -> None:
    write_poisoned_profile(fleet, "raises")
    poisons = [{"id": f"poison {number}", "question": f"poison {number}?", "target": "ok"} for number in range(4)]
    run_id = enqueue_rows(fleet, "poisoned", poisons, chunk=4)
    finish_run(fleet, run_id)
    assert_only_poison_failed(fleet, run_id, {str(poison["id"]) for poison in poisons})


def test_drain_during_a_trial_is_no_crash(fleet: Fleet, exits: list[int]) -> None:
    write_poisoned_profile(fleet, "hangs")
    poison = {"id": "poison", "question": "poison?", "target": "ok"}
    run_id = enqueue_rows(fleet, "poisoned", [poison], chunk=4)
    lease = fleet.ledger.acquire(run_id, 0, "died@test")
    assert lease is not None
    fleet.ledger.release(lease, blame=2)
    fleet.ledger.client.set("fleet:janitor:poisoned", "1")  # so that no worker takes the chunk over by itself
    asked = fleet.folder / "asked"
    for _ in range(3):
        with open_worker(fleet, "poisoned", janitor_s=600) as worker, ThreadPoolExecutor(1) as pool:
            running = pool.submit(run_chunk, worker, run_id, 0)
            wait_until(asked.exists, "the sample to run alone")
            worker.leases.drain(at_once=True)
            assert running.result(20) == "given back"
            asked.unlink()
    assert exits == []
    lease = wait_until(lambda: fleet.ledger.acquire(run_id, 0, "next@test"), "a lease")
    assert lease.suspect
    assert fleet.ledger.begin_trial(lease, read_chunk(fleet.store, read_index(fleet.store, run_id)[0])[0].sample_id) == 0


def test_hanging_suspect_counts_as_crash_despite_early_release(
    fleet: Fleet, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_poisoned_profile(fleet, "hangs")
    run_id = enqueue_rows(fleet, "poisoned", [{"id": "poison", "question": "poison?", "target": "ok"}], chunk=4)
    lease = fleet.ledger.acquire(run_id, 0, "died@test")
    assert lease is not None
    fleet.ledger.release(lease, blame=2)
    fleet.ledger.client.set("fleet:janitor:poisoned", "1")  # so that no worker takes the chunk over by itself
    with open_worker(fleet, "poisoned", janitor_s=600) as worker, ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_chunk, worker, run_id, 0)
        wait_until((fleet.folder / "asked").exists, "the sample to run alone")
        with monkeypatch.context() as patch:
            patch.setattr(worker.leases, "wait_for_acquire", lambda: running.result(20))
            with pytest.raises(Exited):
                worker.die("the engine has answered nothing")
    assert running.result() == "given back"
    lease = wait_until(lambda: fleet.ledger.acquire(run_id, 0, "next@test"), "a lease")
    assert fleet.ledger.begin_trial(lease, read_chunk(fleet.store, read_index(fleet.store, run_id)[0])[0].sample_id) == 1
