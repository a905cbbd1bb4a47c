"""A worker drains, releases its chunks, registers itself, and exits when its engine dies."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.exceptions import ResponseError

from common.exit_codes import ENGINE_DIED, ENGINE_KILLED
from common.records import Lease
from tests.support.faults.redis_faults import redis_without_permission
from tests.support.fleet import Fleet, make_rows
from tests.support.waiting import wait_until
from tests.support.workers import Exited, enqueue_rows, exits, open_worker
from workers.runtime.worker import Worker

__all__ = ["exits"]  # a fixture


@pytest.fixture
def worker(fleet: Fleet) -> Iterator[Worker]:
    fleet.write_profile("tried")
    with open_worker(fleet, "tried", drain_grace_s=600) as worker:
        yield worker


def acquire(worker: Worker, run_id: str, number: int) -> Lease:
    lease = worker.ledger.acquire(run_id, number, worker.name)
    assert lease is not None
    return lease


def test_worker_record_lists_held_chunks_until_stop(fleet: Fleet) -> None:
    fleet.write_profile("tried")
    with open_worker(fleet, "tried") as worker:
        (record,) = fleet.workers("tried")
        assert (record.worker, record.device, record.pid, record.state) == ("tried@test", "cpu", os.getpid(), "ready")
        with worker.keeper.keep(acquire(worker, enqueue_rows(fleet, "tried", make_rows(4)), 0)) as held:
            wait_until(lambda: fleet.workers("tried")[0].holds == ((held.lease.run_id, 0),), "the chunk in the worker's record")
            worker.leases.drain()
            wait_until(lambda: fleet.workers("tried")[0].state == "draining", "the drain in the worker's record")
    assert fleet.workers("tried") == []


def test_worker_stops_while_redis_refuses_commands(fleet: Fleet) -> None:
    fleet.write_profile("tried")
    with open_worker(fleet, "tried") as worker:
        with redis_without_permission(fleet):
            worker.stop()
        worker.stop = lambda: None  # type: ignore[method-assign]  # it was stopped here


def test_drain_grace_starts_once_and_can_be_ended(worker: Worker) -> None:
    assert (worker.leases.draining, worker.leases.grace_over) == (False, False)
    worker.leases.drain()
    worker.leases.drain()
    assert (worker.leases.draining, worker.leases.grace_over) == (True, False)
    worker.leases.drain(at_once=True)
    worker.leases.drain()
    assert (worker.leases.draining, worker.leases.grace_over) == (True, True)


def test_stop_waits_for_held_chunks(fleet: Fleet) -> None:
    fleet.write_profile("tried")
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    with open_worker(fleet, "tried") as worker:
        with worker.keeper.keep(acquire(worker, run_id, 0)):
            stopping = threading.Thread(target=worker.stop)
            stopping.start()
            wait_until(lambda: fleet.workers("tried")[0].state == "draining", "a heartbeat of the draining worker")
            assert worker.host.submit(_answer_of_the_loop()).result(20) == 42, "the engine's loop must run while a chunk is held"
            assert stopping.is_alive()
        stopping.join(timeout=20)
        assert not stopping.is_alive()
        worker.stop = lambda: None  # type: ignore[method-assign]  # already stopped


async def _answer_of_the_loop() -> int:
    return 42


def test_released_chunk_is_taken_over_once(fleet: Fleet) -> None:
    fleet.write_profile("tried")
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    with open_worker(fleet, "tried", janitor_s=600) as worker:  # it sweeps only at its start
        lease = acquire(worker, run_id, 0)
        worker.leases.give_back(lease)
        worker.leases.give_back(lease)
        assert worker.ledger.expire_leases(run_id) == [0]
        assert worker.ledger.expire_leases(run_id) == []
        assert acquire(worker, run_id, 0).token != lease.token


def test_takeovers_run_on_threads_while_there_is_room(fleet: Fleet) -> None:
    fleet.write_profile("tried", engine_options={"delay_s": 0.2})
    run_id = enqueue_rows(fleet, "tried", make_rows(40), chunk=10)
    with open_worker(fleet, "tried", chunks_in_flight=2, janitor_s=600) as worker:
        worker.takeovers.begin(run_id, 0)
        worker.takeovers.begin(run_id, 1)
        assert worker.takeovers.room == 0
        wait_until(lambda: worker.takeovers.room == 2, "the end of both takeovers")
        assert fleet.status(run_id).samples.ok == 20
        worker.leases.drain()
        assert worker.takeovers.room == 0


def test_dying_worker_releases_every_chunk(worker: Worker, fleet: Fleet, exits: list[int]) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(40))
    with worker.keeper.keep(acquire(worker, run_id, 0)), worker.keeper.keep(acquire(worker, run_id, 1)):
        with pytest.raises(Exited):
            worker.die("the GPU does not respond")
        assert exits == [ENGINE_DIED]
        assert worker.leases.grace_over
        assert sorted(worker.ledger.expire_leases(run_id)) == [0, 1]
        view = worker.ledger.view_run(run_id)
        assert view is not None
        assert view.holders == {}


def test_dying_worker_releases_a_chunk_being_acquired(
    worker: Worker, fleet: Fleet, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, asked, answered = enqueue_rows(fleet, "tried", make_rows(40)), threading.Event(), threading.Event()
    ledger_acquire = worker.ledger.acquire

    def acquire_slowly(*named: Any, **options: Any) -> Lease | None:
        lease = ledger_acquire(*named, **options)
        asked.set()
        assert answered.wait(20)
        return lease

    def hold() -> None:
        with worker.leases.hold(run_id, 0):
            wait_until(lambda: exits, "the worker's end")

    def die() -> None:
        with pytest.raises(Exited):
            worker.die("the GPU does not respond")

    monkeypatch.setattr(worker.ledger, "acquire", acquire_slowly)
    with ThreadPoolExecutor(2) as threads:
        holding = threads.submit(hold)
        assert asked.wait(20)
        dying = threads.submit(die)
        wait_until(lambda: worker.leases.draining, "the worker to be dying")
        answered.set()
        dying.result(20)
        holding.result(20)
    assert exits == [ENGINE_DIED]
    assert worker.ledger.expire_leases(run_id) == [0]


def test_dying_worker_exits_without_redis(worker: Worker, fleet: Fleet, exits: list[int]) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    with worker.keeper.keep(acquire(worker, run_id, 0)):
        fleet.server.kill()
        with pytest.raises(Exited):
            worker.die("the GPU does not respond")
        fleet.server.restart()
    assert exits == [ENGINE_DIED]


def test_engine_that_hangs_in_stop_ends_worker(fleet: Fleet, exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runtime.engine_host._STOP_S", 0.2)
    fleet.write_profile("tried")
    with open_worker(fleet, "tried") as worker:
        goes_on = threading.Event()
        worker.host._loop.call_soon_threadsafe(goes_on.wait)  # noqa: SLF001  # as an engine's synchronous code might
        with pytest.raises(Exited):
            worker.stop()
        goes_on.set()
        assert exits == [ENGINE_KILLED]
        (left,) = fleet.workers("tried")
        assert (left.state, left.trouble) == ("stopped", "the engine did not stop within 0.2 s")
        monkeypatch.undo()  # a real process has exited by now; this worker is stopped


def test_stalled_engine_is_detected_during_redis_errors(fleet: Fleet, exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.write_profile("tried")
    with open_worker(fleet, "tried", engine_stall_s=5) as worker:
        worker.keeper.stop()
        worker.ledger.client.delete("fleet:janitor:tried")
        with monkeypatch.context() as patch:
            patch.setattr(worker.ledger, "list_runs", _refuse)
            patch.setattr("workers.recovery.stall_detector.StallDetector.stalled_s", 6.0)
            with pytest.raises(Exited):
                worker.report_and_sweep()
        assert exits == [ENGINE_DIED]


def _refuse(model: str) -> list[str]:
    raise ResponseError(f"WRONGTYPE {model}")


def test_loading_worker_is_registered(fleet: Fleet) -> None:
    fleet.write_profile("slow", engine_options={"load_s": 1.0})
    with ThreadPoolExecutor(1) as threads:
        opened = threads.submit(_open_and_close, fleet)
        wait_until(lambda: [one.state for one in fleet.workers("slow")] == ["loading"], "a worker that is loading")
        opened.result(20)
    assert fleet.workers("slow") == []


def _open_and_close(fleet: Fleet) -> None:
    with open_worker(fleet, "slow"):
        assert [one.state for one in fleet.workers("slow")] == ["ready"]


def test_engine_that_ends_its_loop_ends_worker(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    died = threading.Event()
    monkeypatch.setattr(Worker, "die", lambda *_: died.set())
    fleet.write_profile("tried")
    with open_worker(fleet, "tried") as worker:
        worker.host._loop.call_soon_threadsafe(_leave)  # noqa: SLF001  # as a task of an engine might
        assert died.wait(20)
        monkeypatch.setattr(worker, "stop", worker.keeper.stop)
    worker.host._loop.close()  # noqa: SLF001  # the loop's thread has ended


def _leave() -> None:
    raise SystemExit(3)


def test_run_is_loaded_once(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    assert worker.runs.load(run_id) is worker.runs.load(run_id)
