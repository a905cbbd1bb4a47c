"""A worker that cannot begin an offered chunk declines it. Other workers get the offer without a delay."""

import threading

import pytest

from common.broker.app import make_app
from tests.support.fleet import Fleet, make_rows
from tests.support.workers import Exited, enqueue_rows, exits, open_worker
from workers.recovery.janitor import Janitor
from workers.runtime.worker import Worker

__all__ = ["exits"]  # a fixture

FAR = 600.0  # seconds; longer than the test


def offer_chunk(fleet: Fleet, run_id: str) -> None:
    """Release chunk 0, and take its only offer."""
    lease = fleet.ledger.acquire(run_id, 0, "dead@test")
    assert lease is not None
    fleet.ledger.release(lease)
    assert fleet.ledger.expire_leases(run_id) == [0]
    assert fleet.ledger.expire_leases(run_id) == []


def test_draining_worker_declines_offered_chunks(fleet: Fleet) -> None:
    fleet.write_profile("tried")
    with open_worker(fleet, "tried", lease_s=FAR, janitor_s=FAR) as worker:
        run_id = enqueue_rows(fleet, "tried", make_rows(4))
        offer_chunk(fleet, run_id)
        worker.leases.drain()
        worker.takeovers.begin(run_id, 0)
        worker.stop()
        assert fleet.ledger.expire_leases(run_id) == [0]
        name = enqueue_rows(fleet, "tried", make_rows(5))
        offer_chunk(fleet, name)
        worker.takeovers.begin(name, 0)  # its threads have already ended
        assert fleet.ledger.expire_leases(name) == [0]
        worker.stop = lambda: None  # type: ignore[method-assign]  # already stopped


def test_dying_worker_declines_chunks_not_begun(fleet: Fleet, exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.write_profile("tried")
    dead = threading.Event()
    with open_worker(fleet, "tried", lease_s=FAR, janitor_s=FAR) as worker:
        run_id = enqueue_rows(fleet, "tried", make_rows(4))
        offer_chunk(fleet, run_id)
        load_run = worker.runs.load
        monkeypatch.setattr(worker.runs, "load", lambda run_id: dead.wait(20) and load_run(run_id))  # the store is slow
        worker.takeovers.begin(run_id, 0)
        with pytest.raises(Exited):
            worker.die("the GPU does not respond")
        assert fleet.ledger.expire_leases(run_id) == [0]
        dead.set()


def test_worker_is_ready_before_its_first_sweep(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    ready: list[bool] = []
    monkeypatch.setattr(Worker, "report_and_sweep", lambda worker: ready.append(worker.ready))
    fleet.write_profile("tried")
    with open_worker(fleet, "tried"):
        assert ready[0], "otherwise a signal would end the process immediately, with the chunks that the sweep took over"


def test_failing_first_sweep_does_not_end_worker(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = threading.Event()

    def fail_once(*given: object, **named: object) -> None:
        if not swept.is_set():
            swept.set()
            raise RuntimeError("the broker does not respond")

    monkeypatch.setattr(Janitor, "sweep", fail_once)
    fleet.write_profile("tried")
    with open_worker(fleet, "tried") as worker:
        assert swept.is_set()
        assert worker.ready


def test_only_released_chunks_are_taken_over_after_outage(fleet: Fleet) -> None:
    fleet.write_profile("tried")
    with open_worker(fleet, "tried", janitor_s=FAR) as worker:
        run_id = enqueue_rows(fleet, "tried", make_rows(40), chunk=10)
        worker.ledger.client.delete("fleet:janitor:tried", "fleet.tried")
        expired, given_back = (worker.ledger.acquire(run_id, chunk, "other@test") for chunk in (0, 1))
        assert expired is not None
        assert given_back is not None
        worker.ledger.client.zadd(f"fleet:{{{run_id}}}:leases", {"0": 1})  # as if its holder could not renew it
        worker.ledger.release(given_back)
        janitor = Janitor(make_app(fleet.settings), worker.ledger, worker.takeovers, worker.runs.find_index, "tried", 0.05)
        assert janitor.sweep(with_expired=False) == 1
        assert worker.ledger.renew(run_id, [expired]) == [], "the holder still has its lease"
