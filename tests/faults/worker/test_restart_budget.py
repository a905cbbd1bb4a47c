"""The launcher stops restarting workers that die repeatedly. Run and status show the reason. The run continues after a repair."""

import os
import signal
import socket
from typing import Any

import psutil
import pytest

from common.ledger.worker_registry import WorkerRecord
from tests.support.asked_samples import count_asked_again
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet, find_processes, start_launcher
from tests.support.hardware.fake_gpus import with_gpus
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

MODEL = "ending"
WORKERS = ("--model", MODEL, "--gpus", "none")

EXIT_REASONS = {
    "error": "exit code 70 (engine died)",
    "SIGKILL": "exit code -9 (killed by SIGKILL, perhaps by the system because memory ran out)",
    "SIGSEGV": "exit code -11 (crashed in native code, SIGSEGV)",
}


def enqueue_for_crashes(fleet: Fleet, how: str, **options: Any) -> str:
    """Enqueue 40 samples for workers that die in the way ``how`` until the file ``repaired`` exists; return the run's id."""
    options = {"asked": str(fleet.folder / "asked"), "repaired": str(fleet.folder / "repaired"), "how": how, **options}
    fleet.write_changing_profile(MODEL, "tests.support.engines.crashing_engine:CrashingEngine", options)
    return enqueue_rows(fleet, MODEL, make_rows(40), chunk=8)


def finish_run(fleet: Fleet, run_id: str) -> None:
    """Complete a run with working workers; assert that each sample was sent once in total."""
    fleet.start_workers(MODEL)
    assert fleet.wait_for_end(run_id).samples.ok == 40
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) == 0


@pytest.mark.parametrize("how", EXIT_REASONS)
def test_exhausted_restart_budget_pauses_run_with_reason(clean_fleet: Fleet, how: str) -> None:
    fleet = clean_fleet
    run_id = enqueue_for_crashes(fleet, how)
    with start_launcher(fleet, *WORKERS, environment=fleet.environment(max_restarts=1)) as launcher:
        output = fleet.run_producer("watch", run_id, code=1)
        assert launcher.wait(timeout=60) == 1
        _, log = launcher.communicate()
        assert find_processes(fleet) == []
    trouble = f"gave up after 1 restart in an hour; last {EXIT_REASONS[how]}"
    assert trouble in output
    assert log.count("worker.started") == 2
    status = fleet.status(run_id)
    assert (status.state, status.samples.unprocessed) == ("paused", 40)
    (worker,) = status.workers
    assert worker.state == "stopped"
    assert ("the GPU does not respond" in (worker.trouble or "")) == (how == "error")
    assert worker.holds == ()
    assert trouble in (worker.trouble or "")
    assert f"producer resume {run_id}" in (status.reason or "")

    (fleet.folder / "repaired").touch()
    fleet.run_producer("resume", run_id)
    finish_run(fleet, run_id)
    assert [one.state for one in fleet.workers(MODEL)] == ["ready"], "the new launcher must remove the notice of the old one"


def test_configuration_error_pauses_run_with_worker_message(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    fleet.write_profile(MODEL, engine="tests.support.engines.faulty_engines:MisconfiguredEngine")
    run_id = enqueue_rows(fleet, MODEL, make_rows(40), chunk=8)
    with start_launcher(fleet, *WORKERS, environment=fleet.environment()) as launcher:
        output = fleet.run_producer("watch", run_id, code=1)
        assert launcher.wait(timeout=60) == 2
    assert "cannot start: profile wrong: engine_options.depth: expected 1 to 8, found 9" in output
    assert fleet.status(run_id).state == "paused"


def _find_stopped(fleet: Fleet) -> list[WorkerRecord] | None:
    """Return both workers once the notice has replaced the record that the dead worker wrote while it loaded."""
    found = fleet.workers(MODEL)
    return found if len(found) == 2 and any(one.state == "stopped" for one in found) else None


def test_abandoned_worker_does_not_affect_others(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    run_id = enqueue_for_crashes(fleet, "SIGKILL", device="0", delay_s=0.05)
    environment = with_gpus(fleet.environment(max_restarts=0), 2)
    with start_launcher(fleet, "--model", MODEL, "--gpus", "all", environment=environment) as launcher:
        assert fleet.wait_for_end(run_id).samples.ok == 40
        there = wait_until(lambda: _find_stopped(fleet), "the notice and the worker")
        host = socket.gethostname()
        assert [(one.worker, one.state) for one in there] == [(f"gpu0@{host}", "stopped"), (f"gpu1@{host}", "ready")]
        assert "not started again" in (there[0].trouble or "")
        launcher.terminate()
        assert launcher.wait(timeout=60) == 0, "one worker was drained and exited normally"
    assert_run_is_sound(fleet, run_id)


def test_launcher_records_its_notice_when_redis_returns(clean_fleet: Fleet) -> None:
    """Redis is unreachable when the launcher gives up on the worker."""
    fleet = clean_fleet
    (fleet.folder / "repaired").touch()
    run_id = enqueue_for_crashes(fleet, "SIGKILL", table=[{"match": "", "fault": "hang"}])
    launcher = fleet.start_workers(MODEL, max_restarts=0)
    (worker,) = fleet.wait_for_workers(MODEL)
    fleet.server.kill()
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: "worker.gave_up" in fleet.read_log(), "the launcher to give up on the worker")
    assert launcher.poll() is None, "the launcher must wait for Redis"
    fleet.server.restart()
    assert launcher.wait(timeout=60) == 1
    status = fleet.status(run_id)
    assert status.state == "paused"
    assert "killed by SIGKILL" in (status.reason or "")

    (fleet.folder / "asked").unlink(missing_ok=True)  # the hanging samples were sent but never answered
    enqueue_for_crashes(fleet, "SIGKILL")
    fleet.run_producer("resume", run_id)
    finish_run(fleet, run_id)


def test_launcher_waiting_for_redis_handles_signals(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    enqueue_for_crashes(fleet, "SIGKILL", load_s=600)
    launcher = fleet.start_workers(MODEL, max_restarts=0)
    wait_until(lambda: "worker.started" in fleet.read_log(), "the worker to be started")
    os.kill(fleet.server.pid, signal.SIGSTOP)
    try:
        (worker,) = psutil.Process(launcher.pid).children()
        worker.kill()
        wait_until(lambda: "worker.gave_up" in fleet.read_log(), "the launcher to give up on the worker")
        assert launcher.poll() is None, "the launcher must wait for Redis"
        launcher.terminate()
        assert launcher.wait(timeout=20) == 0
    finally:
        os.kill(fleet.server.pid, signal.SIGCONT)
