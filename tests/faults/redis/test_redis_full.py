"""Redis is out of memory (``maxmemory``, ``noeviction``): workers wait, commands report the error, and both continue afterwards."""

from typing import Any

from common.ledger.keys import runs_key
from tests.support.asked_samples import count_asked_again
from tests.support.faults.redis_faults import RECORDING, cut_connections, full_redis, wait_for_parts, write_recording_profile
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture


def test_workers_wait_while_redis_is_full(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_recording_profile(fleet, delay_s=0.3)
    run_id = enqueue_rows(fleet, RECORDING, make_rows(160), chunk=8)
    fleet.start_workers(RECORDING, chunks_in_flight=2)

    wait_for_parts(fleet, run_id, 3)
    with full_redis(fleet):
        cut_connections(fleet)  # a worker that reconnects still finds Redis full
        wait_until(lambda: not fleet.workers(RECORDING), "the worker's record to expire")
    assert fleet.wait_for_end(run_id).samples.ok == 160
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) == 0
    log = fleet.read_log()
    assert log.count("worker.started") == 1


def test_worker_started_with_full_redis_waits(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_recording_profile(fleet)
    run_id = enqueue_rows(fleet, RECORDING, make_rows(40), chunk=8)
    with full_redis(fleet):
        fleet.start_workers(RECORDING, max_restarts=0)
        wait_until(lambda: count_refused(fleet) > 3, "Redis to refuse the worker")
    assert fleet.wait_for_end(run_id).samples.ok == 40
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) == 0
    assert fleet.read_log().count("worker.started") == 1


def count_refused(fleet: Fleet) -> int:
    """Return the number of commands that Redis has refused since its start."""
    stats: Any = fleet.ledger.client.info("errorstats")
    return int(stats.get("errorstat_OOM", {}).get("count", 0))


def test_producer_reports_full_redis_and_can_continue(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_recording_profile(fleet)
    spec = fleet.write_spec(RECORDING, [fleet.write_dataset("rows", make_rows(40))], chunks={"max_samples": 8})
    with full_redis(fleet):
        output = fleet.run_producer("enqueue", str(spec), code=3)
        assert "Traceback" not in output
        assert "out of memory" in output
        assert "maxmemory" in output
        assert not fleet.ledger.client.exists(runs_key(RECORDING))
    fleet.run_producer("enqueue", str(spec))
    (run_id,) = fleet.ledger.list_runs(RECORDING)
    fleet.start_workers(RECORDING)
    fleet.wait_for_end(run_id)
    assert_run_is_sound(fleet, run_id)
