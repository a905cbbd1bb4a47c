"""An engine stops answering: its worker restarts, and the run completes with correct results.

An engine that is only slow is not restarted.
"""

from typing import Any

import pytest

from tests.support.asked_samples import assert_not_asked_again, count_asked_again, read_asked, read_stored_counts
from tests.support.engines.stalling_engines import Stall
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

MODEL = "stalling"
CHUNK_SAMPLES = 8
IN_FLIGHT = 2 * CHUNK_SAMPLES
STALL_S = 4


def write_profile(fleet: Fleet, engine: str, **options: Any) -> None:
    options = {"asked": str(fleet.folder / "asked"), **options}
    fleet.write_profile(MODEL, engine=f"tests.support.engines.stalling_engines:{engine}", engine_options=options)


def stall_once(fleet: Fleet, how: Stall, *, lease_s: float) -> str:
    """Start a worker whose engine stalls among the first chunks, wait for the run's end and return the run's id."""
    stalled = fleet.folder / "stalled"
    write_profile(fleet, "StallingEngine", how=how, answers=20, stalled=str(stalled), delay_s=0.02)
    run_id = enqueue_rows(fleet, MODEL, make_rows(64), chunk=CHUNK_SAMPLES)
    fleet.start_workers(MODEL, chunks_in_flight=2, engine_stall_s=STALL_S, lease_s=lease_s, drain_grace_s=1)
    wait_until(stalled.exists, "the engine to stall")
    stored = read_stored_counts(fleet, run_id)
    assert fleet.wait_for_end(run_id).samples.ok == 64
    assert_run_is_sound(fleet, run_id)
    assert_not_asked_again(fleet, stored)
    assert count_asked_again(fleet) <= IN_FLIGHT, "only samples in flight may be sent again"
    assert fleet.read_log().count("worker.started") == 2
    return run_id


@pytest.mark.parametrize("how", ["unresponsive", "blocked"])
def test_worker_with_stalled_engine_releases_its_chunks(clean_fleet: Fleet, how: Stall) -> None:
    fleet = clean_fleet
    stall_once(fleet, how, lease_s=600)  # longer than the test: the worker must release the chunks
    log = fleet.read_log()
    assert log.count(f"the engine has not answered a request for {STALL_S} s") == 1
    assert log.count("exit_code=70") == 1


def test_engine_that_blocks_every_thread_is_killed(clean_fleet: Fleet) -> None:
    stall_once(clean_fleet, "locked", lease_s=1.5)  # its heartbeat cannot release chunks: the leases must expire


def test_slow_engine_is_not_restarted(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_profile(fleet, "SlowEngine", delay_s=0.4)
    run_id = enqueue_rows(fleet, MODEL, make_rows(16), chunk=CHUNK_SAMPLES)
    fleet.start_workers(MODEL, chunks_in_flight=2, engine_stall_s=STALL_S)
    assert fleet.wait_for_end(run_id).samples.ok == 16
    outcomes = assert_run_is_sound(fleet, run_id)
    assert max(outcome.attempts[0].latency_s for outcome in outcomes) > STALL_S, "a sample must wait longer than a stall"
    assert set(read_asked(fleet).values()) == {1}
    assert fleet.read_log().count("worker.started") == 1
