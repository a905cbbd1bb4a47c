"""A worker's clock jumps, or is wrong by minutes or hours: leases use the clock of Redis, and samples are not lost or repeated.

The times that a worker writes into outcomes (``started_at``, ``finished_at``) come from its own clock, even if that clock is wrong.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil
import pytest

from common.ledger.worker_registry import WorkerRecord
from producer.runs.status import RunStatus
from tests.support.asked_samples import count_asked_again, read_asked
from tests.support.fleet import ROOT, Fleet, make_rows
from tests.support.fleet_processes import clean_fleet, start_launcher
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

MODEL = "recording"
CHUNK_SAMPLES = 8
SAMPLES = 64
MINUTE_S, HOUR_S = 60, 3600
CHUNK_S = 0.8
LONG_CHUNK_S = 3.0
SHORT_LEASES = {"chunks_in_flight": 1, "lease_s": 4, "renew_s": 0.3, "janitor_s": 0.3}
WRONG_CLOCK = ROOT / "tests" / "support" / "faults" / "wrong_clock"


class ClockPair(NamedTuple):
    """Two workers of one model: one with a wrong clock, and one with a correct clock. ``launcher`` started the first one."""

    launcher: "subprocess.Popen[str]"
    wrong: WorkerRecord
    right: WorkerRecord


@contextmanager
def start_clock_pair(fleet: Fleet, *offsets_s: int, chunk_s: float = CHUNK_S) -> Iterator[ClockPair]:
    options = {"asked": str(fleet.folder / "asked"), "delay_s": chunk_s}
    fleet.write_profile(MODEL, engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
    clock = {"WRONG_CLOCK_S": ",".join(map(str, offsets_s)), "PYTHONPATH": f"{WRONG_CLOCK}{os.pathsep}{ROOT}"}
    environment = {**fleet.environment(**SHORT_LEASES), **clock}
    with start_launcher(fleet, "--model", MODEL, "--gpus", "none", environment=environment) as launcher:
        fleet.start_workers(MODEL, **SHORT_LEASES)
        parents = {psutil.Process(worker.pid).ppid(): worker for worker in fleet.wait_for_workers(MODEL, 2)}
        wrong = parents.pop(launcher.pid)
        yield ClockPair(launcher, wrong, *parents.values())


def wait_for_ok(fleet: Fleet, run_id: str, count: int) -> RunStatus:
    return wait_until(lambda: read if (read := fleet.status(run_id)).samples.ok >= count else None, f"{count} samples")


def find_held(fleet: Fleet, run_id: str, worker: str) -> set[int]:
    view = fleet.ledger.view_run(run_id)
    assert view is not None
    return {chunk for chunk, holder in view.holders.items() if holder == worker}


@pytest.mark.parametrize("offset_s", [-2 * HOUR_S, 3 * MINUTE_S])
def test_wrong_clock_does_not_affect_leases_rate_or_eta(clean_fleet: Fleet, offset_s: int) -> None:
    fleet = clean_fleet
    with start_clock_pair(fleet, offset_s) as both:
        began_s = time.time()
        run_id = enqueue_rows(fleet, MODEL, make_rows(SAMPLES), chunk=CHUNK_SAMPLES)
        status = wait_for_ok(fleet, run_id, 2 * CHUNK_SAMPLES)
        assert 0 < status.samples_per_s <= 2 * CHUNK_SAMPLES / CHUNK_S, "two workers cannot be that fast"
        assert status.samples_per_s > 0.1 * status.samples.ok / (time.time() - began_s)
        assert status.eta_s == pytest.approx((status.samples.in_flight + status.samples.unprocessed) / status.samples_per_s)
        fleet.wait_for_end(run_id)
        ended_s = time.time()
    outcomes = assert_run_is_sound(fleet, run_id)
    assert set(read_asked(fleet).values()) == {1}, "chunks must not be taken over early"
    assert {outcome.worker for outcome in outcomes} == {both.wrong.worker, both.right.worker}
    for outcome in outcomes:
        off_s = offset_s if outcome.worker == both.wrong.worker else 0
        assert outcome.started_at is not None
        assert outcome.finished_at is not None
        assert began_s + off_s <= outcome.started_at <= outcome.finished_at <= ended_s + off_s


# If leases used the workers' clocks, the dead worker's lease would not expire during the test in either case.
@pytest.mark.parametrize(("dies", "offset_s"), [("wrong", 2 * HOUR_S), ("right", -2 * HOUR_S)])
def test_chunk_is_taken_over_despite_wrong_clocks(clean_fleet: Fleet, dies: str, offset_s: int) -> None:
    """Either the dead worker or its successor has the wrong clock."""
    fleet = clean_fleet
    # Long chunks: the chunk found below must still be running when the worker is killed.
    with start_clock_pair(fleet, offset_s, chunk_s=LONG_CHUNK_S) as both:
        dead, successor = (both.wrong, both.right) if dies == "wrong" else (both.right, both.wrong)
        launcher = psutil.Process(dead.pid).parent()
        assert launcher is not None
        run_id = enqueue_rows(fleet, MODEL, make_rows(SAMPLES // 2), chunk=CHUNK_SAMPLES)
        wait_until(lambda: find_held(fleet, run_id, dead.worker), "the worker to hold a chunk")
        launcher.kill()
        os.kill(dead.pid, signal.SIGKILL)
        (orphan,) = find_held(fleet, run_id, dead.worker)
        assert fleet.wait_for_end(run_id).samples.ok == SAMPLES // 2
    outcomes = assert_run_is_sound(fleet, run_id)
    assert {outcome.worker for outcome in outcomes[orphan * CHUNK_SAMPLES :][:CHUNK_SAMPLES]} == {successor.worker}
    assert count_asked_again(fleet) <= CHUNK_SAMPLES


def test_jumping_clock_does_not_repeat_samples(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    with start_clock_pair(fleet, 0, 2 * HOUR_S, -2 * HOUR_S) as both:
        run_id = enqueue_rows(fleet, MODEL, make_rows(SAMPLES), chunk=CHUNK_SAMPLES)
        assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
        both.launcher.terminate()
        assert both.launcher.wait(timeout=30) == 0
    outcomes = assert_run_is_sound(fleet, run_id)
    assert set(read_asked(fleet).values()) == {1}
    assert all(outcome.attempts[0].latency_s >= CHUNK_S for outcome in outcomes), "latency must come from a monotonic clock"
    served = [outcome for outcome in outcomes if outcome.worker == both.wrong.worker]
    noted = [at_s for outcome in served for at_s in (outcome.started_at, outcome.finished_at) if at_s]
    assert max(noted) - min(noted) > HOUR_S, "the worker's clock must have jumped"
