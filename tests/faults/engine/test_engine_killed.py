"""The engine's process or its worker gets SIGKILL: only the samples in flight are sent again, and all processes end."""

import os
import random
import signal

import psutil
import pytest

from tests.support.asked_samples import assert_not_asked_again, count_asked_again, find_stored, read_stored_counts
from tests.support.engines.child_engine import Note, read_starts, write_child_profile
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

MODEL = "parent"
CHUNK_SAMPLES = 16
IN_FLIGHT = 2 * CHUNK_SAMPLES
LONG_LEASE_S = 600  # longer than the test, so that only a released chunk is run again


def wait_for_start(fleet: Fleet, count: int) -> Note:
    """Return the ``count``-th start of the engine."""
    return wait_until(lambda: starts[count - 1] if len(starts := read_starts(fleet)) >= count else None, f"start {count}")


def wait_for_stored(fleet: Fleet, run_id: str, count: int) -> None:
    wait_until(lambda: len(find_stored(fleet, run_id)) >= count, f"{count} samples in journals or parts")


def has_exited(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_engine_repeats_only_samples_in_flight(clean_fleet: Fleet, seed: int) -> None:
    fleet = clean_fleet
    write_child_profile(fleet, MODEL, delay_s=0.02)
    run_id = enqueue_rows(fleet, MODEL, make_rows(240), chunk=CHUNK_SAMPLES)
    fleet.start_workers(MODEL, chunks_in_flight=2, lease_s=LONG_LEASE_S)
    stored: dict[str, int] = {}
    moments = sorted(random.Random(seed).sample(range(8, 120), 2))
    for start, moment in enumerate(moments, start=1):
        child = wait_for_start(fleet, start).child
        wait_for_stored(fleet, run_id, moment)
        # If a sample was already stored at an earlier kill, keep the earlier count.
        stored = read_stored_counts(fleet, run_id) | stored
        os.kill(child, signal.SIGKILL)
        wait_for_start(fleet, start + 1)

    assert fleet.wait_for_end(run_id).samples.ok == 240
    assert_run_is_sound(fleet, run_id)
    assert_not_asked_again(fleet, stored)
    # Chunks of takeovers run beside chunks of the queue, so the second kill may affect twice as many samples.
    assert count_asked_again(fleet) <= 3 * IN_FLIGHT, "only samples in flight may be sent again"
    log = fleet.read_log()
    assert log.count("exit_code=72") == len(moments)
    assert log.count("worker.started") == len(moments) + 1
    assert all(has_exited(start.child) for start in read_starts(fleet)[:-1])


def test_next_chunk_detects_engine_killed_while_idle(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_child_profile(fleet, MODEL, delay_s=0.001)
    fleet.start_workers(MODEL, chunks_in_flight=2, lease_s=LONG_LEASE_S)
    fleet.wait_for_workers(MODEL)
    os.kill(wait_for_start(fleet, 1).child, signal.SIGKILL)
    run_id = enqueue_rows(fleet, MODEL, make_rows(64), chunk=CHUNK_SAMPLES)

    assert fleet.wait_for_end(run_id).samples.ok == 64
    assert_run_is_sound(fleet, run_id)
    assert fleet.read_log().count("exit_code=72") == 1
    assert count_asked_again(fleet) <= IN_FLIGHT


def test_engine_process_ends_with_killed_worker(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_child_profile(fleet, MODEL, delay_s=0.02)
    run_id = enqueue_rows(fleet, MODEL, make_rows(160), chunk=CHUNK_SAMPLES)
    fleet.start_workers(MODEL, chunks_in_flight=2, lease_s=1.5)
    first = wait_for_start(fleet, 1)
    wait_for_stored(fleet, run_id, random.Random("worker").randint(8, 60))
    assert os.getpgid(first.child) == first.worker
    stored = read_stored_counts(fleet, run_id)
    os.kill(first.worker, signal.SIGKILL)

    wait_until(lambda: has_exited(first.child), "the killed worker's engine process to end")
    assert fleet.wait_for_end(run_id).samples.ok == 160
    assert_run_is_sound(fleet, run_id)
    assert_not_asked_again(fleet, stored)
    assert count_asked_again(fleet) <= IN_FLIGHT
    assert len(read_starts(fleet)) == 2
