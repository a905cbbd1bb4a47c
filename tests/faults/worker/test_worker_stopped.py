"""A worker stops (SIGSTOP) and continues after another worker has its lease: its late writes are refused."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil
import pytest

from common.ledger.worker_registry import WorkerRecord
from common.storage.plan_index import read_chunk, read_index
from tests.support.asked_samples import read_asked
from tests.support.engines.signalled_engine import wait_for_signalled, write_signalled_profile
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

MODEL = "stopping"
CHUNK_SAMPLES = 8
SAMPLES = 6 * CHUNK_SAMPLES


class Stopped(NamedTuple):
    """The name of a worker that has stopped itself, the chunk that it was working on, and the name of the other worker."""

    worker: str
    chunk: int
    other: str


class Started(NamedTuple):
    """A launcher and the worker that it has started."""

    launcher: "subprocess.Popen[bytes]"
    worker: WorkerRecord


def start_workers(fleet: Fleet, count: int) -> list[Started]:
    settings = {"chunks_in_flight": 1, "lease_s": 4, "renew_s": 0.3, "janitor_s": 0.3}
    launchers = [fleet.start_workers(MODEL, **settings) for _ in range(count)]
    workers = {psutil.Process(worker.pid).ppid(): worker for worker in fleet.wait_for_workers(MODEL, count)}
    return [Started(launcher, workers[launcher.pid]) for launcher in launchers]


@contextmanager
def stop_one(fleet: Fleet, run_id: str, started: list[Started]) -> Iterator[Stopped]:
    """Yield while a worker is stopped; then send SIGCONT, wait for the run's end and drain the other worker."""
    signalled = wait_for_signalled(fleet)
    (worker,) = (one.worker.worker for one in started if one.worker.pid == signalled.pid)
    others = [one for one in started if one.worker.pid != signalled.pid]
    try:
        yield Stopped(worker, find_chunk(fleet, run_id, signalled.at), others[0].worker.worker if others else "")
    finally:
        os.kill(signalled.pid, signal.SIGCONT)
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
    for other in others:
        other.launcher.terminate()
        assert other.launcher.wait(timeout=30) == 0


def find_chunk(fleet: Fleet, run_id: str, at: str) -> int:
    """Return the chunk that ``at`` names: its number, or the id of one of its samples."""
    index = read_index(fleet.store, run_id)
    return next(one.number for one in index if at in {str(one.number), *(read.sample_id for read in read_chunk(fleet.store, one))})


def find_holder(fleet: Fleet, run_id: str, chunk: int) -> str | None:
    view = fleet.ledger.view_run(run_id)
    return view.holders.get(chunk) if view else None


def is_done(fleet: Fleet, run_id: str, chunk: int) -> bool:
    return fleet.ledger.read_done(run_id)[chunk : chunk + 1] == b"\1"


def assert_completes_another_run(fleet: Fleet, worker: str, workers: int) -> None:
    """Assert that the remaining worker completes another run, and that processes were not restarted."""
    run_id = enqueue_rows(fleet, MODEL, make_rows(2 * CHUNK_SAMPLES, dataset="more"), chunk=CHUNK_SAMPLES)
    assert fleet.wait_for_end(run_id).samples.ok == 2 * CHUNK_SAMPLES
    assert {outcome.worker for outcome in assert_run_is_sound(fleet, run_id)} == {worker}
    assert fleet.read_log().count("worker.started") == workers


@pytest.mark.parametrize(
    ("point", "successor"),
    [
        ("asking", "at it"),
        ("before_journal", "done"),
        ("before_part", "done"),
        ("between_part_and_commit", "done"),
    ],
)
def test_continued_worker_cannot_write_to_reassigned_chunk(clean_fleet: Fleet, point: str, successor: str) -> None:
    fleet = clean_fleet
    write_signalled_profile(fleet, MODEL, point, signal.SIGSTOP, after=1, delay_s=0.5)
    started = start_workers(fleet, 2)
    run_id = enqueue_rows(fleet, MODEL, make_rows(SAMPLES), chunk=CHUNK_SAMPLES)
    with stop_one(fleet, run_id, started) as stopped:
        if successor == "done":
            wait_until(lambda: is_done(fleet, run_id, stopped.chunk), "the successor to finish the chunk")
        else:
            wait_until(lambda: find_holder(fleet, run_id, stopped.chunk) == stopped.other, "the successor to take the chunk over")
    outcomes = assert_run_is_sound(fleet, run_id)[stopped.chunk * CHUNK_SAMPLES :][:CHUNK_SAMPLES]
    asked = read_asked(fleet)
    by = {outcome.sample_id: outcome.worker for outcome in outcomes}
    if point in {"asking", "before_journal"}:
        # Samples that were not in the journal when the worker was stopped belong to the successor.
        assert by == {sample: stopped.other if asked[sample] == 2 else stopped.worker for sample in by}
        assert stopped.other in by.values()
    else:
        assert by == dict.fromkeys(by, stopped.worker), "the successor must take the outcomes from the journal"
        assert {asked[sample] for sample in by} == {1}
    assert max(asked.values()) <= 2
    if point == "before_journal":
        assert fleet.read_log().count("lease.lost") == 1
    assert_completes_another_run(fleet, stopped.worker, 2)


def test_continued_worker_without_successor_keeps_its_chunks(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_signalled_profile(fleet, MODEL, "asking", signal.SIGSTOP, after=1, delay_s=0.2)
    started = start_workers(fleet, 1)
    run_id = enqueue_rows(fleet, MODEL, make_rows(SAMPLES), chunk=CHUNK_SAMPLES)
    with stop_one(fleet, run_id, started) as stopped:
        wait_until(lambda: stopped.chunk in fleet.ledger.find_pending(run_id), "the lease to expire")
        wait_until(lambda: not fleet.workers(MODEL), "the worker's record to expire")
    assert_run_is_sound(fleet, run_id)
    assert set(read_asked(fleet).values()) == {1}
    assert_completes_another_run(fleet, stopped.worker, 1)
