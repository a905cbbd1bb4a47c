"""Supervised worker processes: environment, command line and restarts. ``test_launcher_processes.py`` tests real workers."""

import json
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.settings import Settings
from tests.support.waiting import wait_until
from workers.supervisor import process
from workers.supervisor.engine_presets import Choice, Preset
from workers.supervisor.placement import Assignment, GpuSlot
from workers.supervisor.process import WorkerProcess, count_threads


def write_program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


class Clock:
    """The time of the launcher. The test advances it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=lambda _: None))
    return clock


def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, **settings: int) -> WorkerProcess:
    """Return a supervised worker that runs a shell script instead of Celery."""
    monkeypatch.setattr(sys, "executable", str(write_program(tmp_path / "python", program)))
    preset = Preset("memory", {"max_num_seqs": Choice(64, "from 10 GiB up")})
    assignment = Assignment(GpuSlot("gpu1+3", "1,3", "2 × L4"), "./tiny.yaml", "tiny", preset)
    return WorkerProcess(assignment, Settings().model_copy(update=settings))


def run_once(worker: WorkerProcess) -> None:
    """Start the worker unless it runs, and wait until it has exited."""
    if not worker.running:
        worker.watch()
        assert worker.running
    wait_until(lambda: has_exited(worker), "the worker to exit")


def has_exited(worker: WorkerProcess) -> bool:
    worker.watch()
    return not worker.running


def find_pause(worker: WorkerProcess, clock: Clock) -> float:
    """Return the seconds before the launcher restarts the worker, in steps of 0.5 s."""
    started_s = clock.now_s
    while not worker.running:
        clock.now_s += 0.5
        worker.watch()
    return clock.now_s - started_s


def test_restart_delay_grows_with_repeated_deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    worker = supervise(tmp_path, monkeypatch, "exit 70")
    pauses = []
    for _ in range(6):
        run_once(worker)
        pauses.append(find_pause(worker, clock))
    assert pauses == [1, 2, 5, 10, 30, 30]
    worker.kill()


def test_healthy_period_resets_the_restart_delay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    program = f"[ -e {tmp_path}/well ] || exit 70\nwhile [ ! -e {tmp_path}/die ]; do sleep 0.01; done"
    worker = supervise(tmp_path, monkeypatch, program)
    for pause_s in (1, 2):
        run_once(worker)
        assert find_pause(worker, clock) == pause_s
    run_once(worker)
    (tmp_path / "well").touch()
    assert find_pause(worker, clock) == 5
    clock.now_s += 61
    (tmp_path / "die").touch()
    run_once(worker)
    assert find_pause(worker, clock) == 1
    worker.kill()


def test_worker_that_cannot_start_is_not_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    worker = supervise(tmp_path, monkeypatch, "exit 2")
    run_once(worker)
    clock.now_s += 3600
    assert not worker.watch()
    assert worker.gave_up == "cannot start"
    assert not worker.running


def test_worker_over_restart_budget_is_not_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    worker = supervise(tmp_path, monkeypatch, "kill -SEGV $$", max_restarts=2)
    for _ in range(2):
        run_once(worker)
        find_pause(worker, clock)
    run_once(worker)
    assert worker.gave_up == "gave up after 2 restarts in an hour; last exit code -11 (crashed in native code, SIGSEGV)"
    clock.now_s += 7200
    assert not worker.watch()
    assert not worker.running


def test_failed_process_start_counts_as_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    worker = supervise(tmp_path, monkeypatch, "exit 0", max_restarts=1)
    (tmp_path / "python").unlink()
    assert [worker.watch(), worker.gave_up] == [True, None]
    clock.now_s += 1
    assert worker.watch()
    assert worker.gave_up == "gave up after 1 restart in an hour; last exit code 71 (the system could not start a process)"


def test_worker_receives_gpus_preset_and_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3,5")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setenv("FLEET_WORKER_PRESET", "{}")
    received = tmp_path / "received"
    monkeypatch.setenv("FLEET_WORKER_GPU", "of another worker")
    variables = "$CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER $FLEET_WORKER_PROFILE $FLEET_WORKER_DEVICE"
    worker = supervise(
        tmp_path,
        monkeypatch,
        f'echo "$FLEET_WORKER_PRESET" > {received}; echo "$FLEET_WORKER_GPU" >> {received}; echo "{variables} $@" >> {received}',
    )
    run_once(worker)
    preset, gpu, line = received.read_text().splitlines()
    assert (json.loads(preset), gpu) == ({"max_num_seqs": 64}, "2 × L4")
    devices, order, profile, device, *command = line.split()
    assert (devices, order, profile, device) == ("1,3", "PCI_BUS_ID", "./tiny.yaml", "gpu1+3")
    assert command[command.index("-n") + 1] == f"gpu1+3@{socket.gethostname()}"
    assert command[command.index("-Q") + 1] == "fleet.tiny"
    assert command[command.index("-c") + 1] == str(Settings().chunks_in_flight)
    assert command[command.index("-P") + 1] == "threads"
    worker.kill()


def is_loading(worker: WorkerProcess) -> bool:
    return worker.loading  # a function because mypy narrows the property


def test_worker_is_loading_until_it_reports_or_exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    done = f"while [ ! -e {tmp_path}/loaded ]; do sleep 0.01; done; echo done > /dev/fd/$FLEET_WORKER_LOADED_PIPE"
    worker = supervise(tmp_path, monkeypatch, f"{done}; while [ ! -e {tmp_path}/die ]; do sleep 0.01; done")
    assert not is_loading(worker)
    assert [worker.watch(may_start=False), worker.running] == [False, False], "another worker loads a model on the GPU"
    worker.watch()
    assert is_loading(worker)
    (tmp_path / "loaded").touch()
    wait_until(lambda: not is_loading(worker), "the worker to be loaded")
    assert worker.running
    (tmp_path / "die").touch()
    run_once(worker)
    assert not is_loading(worker)
    (tmp_path / "loaded").unlink()
    find_pause(worker, clock)
    assert is_loading(worker), "a restarted worker loads again"
    worker.kill()
    assert not is_loading(worker)


def test_signal_without_process_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = supervise(tmp_path, monkeypatch, "exit 70")
    worker.send(signal.SIGTERM)
    worker.kill()
    assert worker.reap()


def test_workers_share_cores_unless_threads_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(32)))
    on_gpu, on_cpu = GpuSlot("gpu0", "0", "L4"), GpuSlot("cpu7", "", "")
    assert [count_threads(on_cpu, workers) for workers in (1, 2, 64)] == [32, 16, 1]
    assert [count_threads(on_gpu, workers) for workers in (1, 2, 8, 16)] == [4, 4, 4, 2]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    worker = supervise(tmp_path, monkeypatch, 'echo "$OMP_NUM_THREADS" > "$(dirname "$0")/threads"')
    run_once(worker)
    assert (tmp_path / "threads").read_text() == "7\n"
