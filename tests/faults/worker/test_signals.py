"""Signals to the launcher, to a worker process and to the producer's commands: each process ends cleanly and keeps its results."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import psutil
import pytest

from common.ledger.keys import journal_key
from tests.support.asked_samples import count_asked_again, read_asked
from tests.support.fleet import ROOT, Fleet, make_rows
from tests.support.fleet_processes import assert_no_leases_held, clean_fleet, find_processes, start_launcher
from tests.support.planning import run_chunks
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

MODEL = "recording"
WORKERS = ("--model", MODEL, "--gpus", "none")
ROWS = 60
CHUNK_SAMPLES = 4

Signals = Sequence[signal.Signals]


def write_profile(fleet: Fleet, **options: Any) -> None:
    options = {"asked": str(fleet.folder / "asked"), **options}
    fleet.write_changing_profile(MODEL, "tests.support.engines.dying_engine:RecordingEngine", options)


def enqueue_slow(fleet: Fleet) -> str:
    """Enqueue a run of slow chunks; return its id."""
    write_profile(fleet, delay_s=0.3)
    return enqueue_rows(fleet, MODEL, make_rows(ROWS), chunk=CHUNK_SAMPLES)


def enqueue_hanging(fleet: Fleet) -> str:
    """Enqueue a run of two chunks, each with one sample that is never answered; return its id."""
    write_profile(fleet, table=[{"match": "slow", "fault": "hang"}])
    slow = [{"id": f"slow {number}", "question": f"slow {number}?", "target": "ok"} for number in range(2)]
    asked: list[dict[str, Any]] = [*make_rows(2 * CHUNK_SAMPLES - 2), *slow]
    rows = [{**row, "group": f"g{place % 2}"} for place, row in enumerate(asked)]
    return enqueue_rows(fleet, MODEL, rows, chunk=CHUNK_SAMPLES)


def wait_for_asked(fleet: Fleet, count: int) -> None:
    wait_until(lambda: len(read_asked(fleet)) >= count, f"{count} samples to be sent")


def count_journaled(fleet: Fleet, run_id: str) -> int:
    counts: list[Any] = [fleet.ledger.client.hlen(journal_key(run_id, chunk)) for chunk in range(2)]
    return sum(counts)


def wait_for_hanging(fleet: Fleet, run_id: str) -> None:
    wait_until(lambda: count_journaled(fleet, run_id) == 2 * CHUNK_SAMPLES - 2, "all samples but the hanging ones in the journal")


def finish_run(fleet: Fleet, run_id: str) -> None:
    """Run the released chunks in this process; assert that each sample was sent once in total."""
    write_profile(fleet)
    run_chunks(fleet, MODEL, run_id)
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) == 0


# The launcher


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1], ids=lambda number: number.name)
def test_launcher_drains_on_sighup_and_sigusr1(clean_fleet: Fleet, number: signal.Signals) -> None:
    """A repeated SIGHUP does not count as the second signal that kills."""
    fleet = clean_fleet
    run_id = enqueue_slow(fleet)
    with start_launcher(fleet, *WORKERS, environment=fleet.environment(chunks_in_flight=2)) as launcher:
        wait_for_asked(fleet, 2 * CHUNK_SAMPLES)
        launcher.send_signal(number)
        launcher.send_signal(signal.SIGHUP)
        assert launcher.wait(timeout=30) == 0
        assert find_processes(fleet) == []
    assert_no_leases_held(fleet, run_id, MODEL)
    assert 2 * CHUNK_SAMPLES <= fleet.status(run_id).samples.ok == len(read_asked(fleet)) < ROWS
    finish_run(fleet, run_id)


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT), (signal.SIGUSR1, signal.SIGTERM)],
    ids=lambda numbers: " ".join(number.name for number in numbers),
)
def test_launcher_stops_on_sigquit_or_second_signal(clean_fleet: Fleet, numbers: Signals) -> None:
    fleet = clean_fleet
    run_id = enqueue_hanging(fleet)
    with start_launcher(fleet, *WORKERS, environment=fleet.environment(drain_grace_s=600)) as launcher:
        wait_for_hanging(fleet, run_id)
        for place, number in enumerate(numbers):
            if place:
                wait_until(lambda: [one for one in fleet.workers(MODEL) if one.state == "draining"], "the drain to begin")
            launcher.send_signal(number)
        assert launcher.wait(timeout=30) == 130
        assert find_processes(fleet) == []
    assert count_journaled(fleet, run_id) == 2 * CHUNK_SAMPLES - 2
    wait_until(lambda: len(fleet.ledger.find_pending(run_id)) == 2, "the leases to expire")
    write_profile(fleet)
    run_chunks(fleet, MODEL, run_id)
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) == 2, "only the two samples that were never answered"


def test_closed_terminal_drains_its_launcher(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    run_id = enqueue_slow(fleet)
    terminal, slave = pty.openpty()
    # The shell leads a session without a terminal. The first terminal that it opens becomes its controlling terminal.
    in_terminal = ["sh", "-c", 'exec "$@" < "$0" > "$0" 2>&1', os.ttyname(slave)]
    command = [*in_terminal, sys.executable, "-m", "workers", "start", *WORKERS]
    environment = fleet.environment(chunks_in_flight=2, log_level="DEBUG")
    launcher = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)
    try:
        wait_for_asked(fleet, 2 * CHUNK_SAMPLES)
        assert b"worker.started" in os.read(terminal, 65536)
    finally:
        os.close(terminal)  # from now on every write fails with EIO
        os.close(slave)
    assert launcher.wait(timeout=30) == 0
    assert find_processes(fleet) == []
    assert_no_leases_held(fleet, run_id, MODEL)
    assert 2 * CHUNK_SAMPLES <= fleet.status(run_id).samples.ok == len(read_asked(fleet)) < ROWS
    finish_run(fleet, run_id)


def test_nohup_launcher_ignores_closed_terminal(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    run_id = enqueue_slow(fleet)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup does this; a child process inherits it
    try:
        launcher = fleet.start_workers(MODEL)
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for_asked(fleet, 2 * CHUNK_SAMPLES)
    launcher.send_signal(signal.SIGHUP)
    assert fleet.wait_for_end(run_id).samples.ok == ROWS
    assert launcher.poll() is None
    assert_run_is_sound(fleet, run_id)


# A worker process


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1], ids=lambda number: number.name)
def test_signalled_worker_drains_and_is_replaced(clean_fleet: Fleet, number: signal.Signals) -> None:
    fleet = clean_fleet
    run_id = enqueue_slow(fleet)
    fleet.start_workers(MODEL, chunks_in_flight=2)
    (worker,) = fleet.wait_for_workers(MODEL)
    wait_for_asked(fleet, 2 * CHUNK_SAMPLES)
    os.kill(worker.pid, number)
    assert fleet.wait_for_end(run_id).samples.ok == ROWS
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) == 0, "its chunks must be finished before it exits"
    assert not psutil.pid_exists(worker.pid)
    log = fleet.read_log()
    assert (log.count("worker.started"), log.count("exit_code=0")) == (2, 1)


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT)],
    ids=lambda numbers: " ".join(number.name for number in numbers),
)
def test_worker_releases_chunks_on_sigquit_or_second_sigint(clean_fleet: Fleet, numbers: Signals) -> None:
    fleet = clean_fleet
    run_id = enqueue_hanging(fleet)
    # Leases much longer than the test: a chunk that is not released would never end.
    fleet.start_workers(MODEL, drain_grace_s=600, lease_s=600)
    (worker,) = fleet.wait_for_workers(MODEL)
    wait_for_hanging(fleet, run_id)
    write_profile(fleet)
    for place, number in enumerate(numbers):
        if place:
            wait_until(lambda: [one for one in fleet.workers(MODEL) if one.state == "draining"], "the drain to begin")
        os.kill(worker.pid, number)
    assert fleet.wait_for_end(run_id).samples.ok == 2 * CHUNK_SAMPLES
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) == 2, "only the two samples that were never answered"
    assert not psutil.pid_exists(worker.pid)


def test_repeated_sigterm_does_not_interrupt_drain(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    run_id = enqueue_slow(fleet)
    fleet.start_workers(MODEL, chunks_in_flight=2)
    (worker,) = fleet.wait_for_workers(MODEL)
    wait_for_asked(fleet, 2 * CHUNK_SAMPLES)
    for _ in range(5):  # systemd and the launcher also send SIGTERM again
        os.kill(worker.pid, signal.SIGTERM)
    wait_until(lambda: not psutil.pid_exists(worker.pid), "the worker to end")
    assert fleet.wait_for_end(run_id).samples.ok == ROWS
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) == 0


# The producer

# Code of a ``producer`` command that sends itself SIGINT when it calls a named function.
INTERRUPTED = """
import os, signal
import producer.results.collect, producer.runs.enqueue
from common.ledger.ledger import Ledger
from common.storage.store import Store
from producer.__main__ import main

def interrupt_at(owner, name):
    function = getattr(owner, name)
    def wrapped(*given, **named):
        os.kill(os.getpid(), signal.SIGINT)
        return function(*given, **named)
    setattr(owner, name, wrapped)

interrupt_at({owner}, {name!r})
main()
"""
POINTS = {
    "planning": ("enqueue", "Store", "put"),
    "opening": ("enqueue", "Ledger", "open_run"),
    "ringing": ("enqueue", "producer.runs.enqueue", "ring"),
    "collecting": ("collect", "producer.results.collect", "to_table"),
}


@pytest.mark.parametrize("point", POINTS)
def test_interrupted_command_exits_with_130_and_can_continue(fleet: Fleet, point: str) -> None:
    write_profile(fleet)
    spec = fleet.write_spec(MODEL, [fleet.write_dataset("rows", make_rows(ROWS))], chunks={"max_samples": CHUNK_SAMPLES})
    command, owner, name = POINTS[point]
    if command == "collect":
        run_id = fleet.enqueue(spec).run_id
        arguments = ["collect", run_id, "--out", str(fleet.folder / "results")]
    else:
        arguments = ["enqueue", str(spec)]
    interrupted = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(owner=owner, name=name), *arguments],
        env=fleet.environment(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (interrupted.returncode, interrupted.stderr.strip()) == (130, "interrupted; nothing is lost, run the same command again")
    assert not [*fleet.folder.glob("results/*")], "partial files must not be left behind"
    fleet.run_producer(*arguments, code=1 if command == "collect" else 0)
    if command == "enqueue":
        run_id = fleet.enqueue(spec).run_id
    finish_run(fleet, run_id)
