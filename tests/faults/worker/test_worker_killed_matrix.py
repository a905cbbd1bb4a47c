"""A worker gets SIGKILL before its first chunk, in the middle of a chunk, during a takeover, and while it drains."""

import os
import signal
from typing import Any

import pytest

from common.ledger.worker_registry import WorkerRecord
from tests.support.asked_samples import assert_not_asked_again, count_asked_again, find_stored, read_asked, read_stored_counts
from tests.support.engines.signalled_engine import wait_for_signalled, write_signalled_profile
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

MODEL = "mortal"
CHUNK_SAMPLES = 8
IN_FLIGHT = 2 * CHUNK_SAMPLES
SAMPLES = 64
# Every chunk has immediate and delayed answers, so that its journal grows in steps.
SOME_LATER = [{"match": r"[13579]\?", "delay_s": 0.4}]
HANG = [{"match": r"[13579]\?", "fault": "hang"}]
SHORT_LEASES = {"chunks_in_flight": 2, "lease_s": 1.5, "renew_s": 0.3, "janitor_s": 0.3}


def write_profile(fleet: Fleet, point: str, table: list[dict[str, Any]], *, after: int = 0) -> None:
    """Write the profile. It may change during the run."""
    write_signalled_profile(fleet, MODEL, point, signal.SIGKILL, after=after, table=table)


def enqueue(fleet: Fleet) -> str:
    return enqueue_rows(fleet, MODEL, make_rows(SAMPLES), chunk=CHUNK_SAMPLES)


def wait_for_half_chunks(fleet: Fleet, run_id: str) -> WorkerRecord:
    """Return the worker once only the hanging samples of its two chunks are left."""
    wait_until(lambda: len(find_stored(fleet, run_id)) == CHUNK_SAMPLES, "the samples that do not hang to be answered")
    (worker,) = fleet.wait_for_workers(MODEL)
    return worker


def assert_ends_sound(fleet: Fleet, run_id: str, stored: dict[str, int], *, asked_again: int) -> None:
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
    outcomes = assert_run_is_sound(fleet, run_id)
    assert {len(outcome.attempts) for outcome in outcomes} == {1}
    assert_not_asked_again(fleet, stored)
    assert count_asked_again(fleet) <= asked_again, "only samples in flight may be sent again"


@pytest.mark.parametrize(("point", "after"), [("loading", 0), ("after_acquire", 3), ("between_journals", 2)])
def test_worker_killed_around_journal_entries_is_restarted(clean_fleet: Fleet, point: str, after: int) -> None:
    fleet = clean_fleet
    write_profile(fleet, point, SOME_LATER, after=after)
    run_id = enqueue(fleet)
    fleet.start_workers(MODEL, **SHORT_LEASES)
    died = wait_for_signalled(fleet)
    stored = read_stored_counts(fleet, run_id)
    if point == "loading":
        assert not read_asked(fleet)
        assert {one.state for one in fleet.workers(MODEL)} <= {"loading"}
    assert (died.at == "") == (point == "loading")
    assert_ends_sound(fleet, run_id, stored, asked_again=0 if point == "loading" else IN_FLIGHT)
    assert fleet.read_log().count("worker.started") == 2


@pytest.mark.parametrize("point", ["after_expiry_found", "after_takeover"])
def test_successor_killed_during_takeover_does_not_lose_samples(clean_fleet: Fleet, point: str) -> None:
    fleet = clean_fleet
    write_profile(fleet, point, HANG)
    run_id = enqueue(fleet)
    fleet.start_workers(MODEL, **SHORT_LEASES)
    first = wait_for_half_chunks(fleet, run_id)
    write_profile(fleet, point, SOME_LATER)
    os.kill(first.pid, signal.SIGKILL)
    successor = wait_for_signalled(fleet)
    stored = read_stored_counts(fleet, run_id)
    assert successor.pid != first.pid
    assert_ends_sound(fleet, run_id, stored, asked_again=2 * IN_FLIGHT)
    assert fleet.read_log().count("worker.started") == 3


@pytest.mark.parametrize("point", ["running on", "giving_back"])
def test_worker_killed_during_drain_does_not_lose_samples(clean_fleet: Fleet, point: str) -> None:
    fleet = clean_fleet
    write_profile(fleet, point, HANG)
    run_id = enqueue(fleet)
    launcher = fleet.start_workers(MODEL, **SHORT_LEASES, drain_grace_s=600 if point == "running on" else 0)
    worker = wait_for_half_chunks(fleet, run_id)
    launcher.terminate()
    if point == "running on":
        wait_until(lambda: [one for one in fleet.workers(MODEL) if one.state == "draining"], "the drain to begin")
        os.kill(worker.pid, signal.SIGKILL)
    else:
        assert wait_for_signalled(fleet).pid == worker.pid
    assert launcher.wait(timeout=30) == 0
    stored = read_stored_counts(fleet, run_id)

    write_profile(fleet, "nowhere", SOME_LATER)
    fleet.start_workers(MODEL, **SHORT_LEASES)
    assert_ends_sound(fleet, run_id, stored, asked_again=IN_FLIGHT)
