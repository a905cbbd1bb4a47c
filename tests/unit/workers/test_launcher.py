"""The launcher: which slots it serves, and when it starts a worker again.  Real processes: ``test_launcher_processes.py``."""

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import ConfigError
from common.settings import Settings, get_settings
from tests.support.waiting import wait_until
from workers import launcher
from workers.launcher import GpuSlot, Launcher, Supervised, parse_gpus


def write_program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def show_gpus(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put a stand-in for ``nvidia-smi`` first on PATH."""
    write_program(folder / "nvidia-smi", text)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_none_is_one_slot_without_a_gpu_named_for_this_launcher() -> None:
    assert parse_gpus("none") == [GpuSlot(f"cpu{os.getpid()}", "")]


@pytest.mark.parametrize(("asked", "devices"), [("0", ["0"]), ("0,1", ["0", "1"]), (" 3, 1 ", ["1", "3"]), ("07", ["7"])])
def test_numbers_are_one_slot_each(asked: str, devices: list[str]) -> None:
    assert parse_gpus(asked) == [GpuSlot(f"gpu{device}", device) for device in devices]


@pytest.mark.parametrize("asked", ["", ",", "0,", "one", "-1", "0,0", "1,01", "0;1", "1.0", "²", "None"])
def test_nonsense_is_refused_with_what_was_expected(asked: str) -> None:
    with pytest.raises(ConfigError, match=r"expected none, all, or different GPU numbers such as 0 or 0,1") as caught:
        parse_gpus(asked)
    assert repr(asked) in str(caught.value)


def test_all_is_what_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show_gpus(
        tmp_path, monkeypatch, 'test "$1" = --list-gpus && echo "GPU 0: H100 (UUID: GPU-a)" && echo "GPU 1: H100 (UUID: GPU-b)"'
    )
    assert [slot.devices for slot in parse_gpus("all")] == ["0", "1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("exit 9", "nvidia-smi does not answer"), ("true", "the driver shows no GPU"), ("", "the driver shows no GPU")],
)
def test_all_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    show_gpus(tmp_path, monkeypatch, text)
    with pytest.raises(ConfigError, match=f"{said}.*--gpus none"):
        parse_gpus("all")


def test_all_without_a_driver_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="nvidia-smi does not answer"):
        parse_gpus("all")


class Clock:
    """The launcher's time, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(launcher, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=lambda _: None))
    return clock


def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, **settings: int) -> Supervised:
    """Return a supervised worker that runs a shell script instead of Celery."""
    monkeypatch.setattr(sys, "executable", str(write_program(tmp_path / "python", program)))
    return Supervised(GpuSlot("gpu3", "3"), "tiny", "tiny", Settings().model_copy(update=settings))


def run_once(worker: Supervised) -> None:
    """Let the worker start, unless it runs already, and note that it ended."""
    if not worker.running:
        worker.watch()
        assert worker.running
    wait_until(lambda: has_ended(worker), "the worker to end")


def has_ended(worker: Supervised) -> bool:
    worker.watch()
    return not worker.running


def find_pause(worker: Supervised, clock: Clock) -> float:
    """Return how long the launcher waits before it starts the worker again, to half a second."""
    begun_s = clock.now_s
    while not worker.running:
        clock.now_s += 0.5
        worker.watch()
    return clock.now_s - begun_s


def test_a_worker_that_dies_again_and_again_is_started_after_pauses_that_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    worker = supervise(tmp_path, monkeypatch, "exit 70")
    pauses = []
    for _ in range(6):
        run_once(worker)
        pauses.append(find_pause(worker, clock))
    assert pauses == [1, 2, 5, 10, 30, 30]
    worker.kill()


def test_a_worker_that_was_well_for_a_while_is_started_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
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


def test_a_worker_that_cannot_start_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    worker = supervise(tmp_path, monkeypatch, "exit 2")
    run_once(worker)
    clock.now_s += 3600
    assert not worker.watch()
    assert worker.gave_up == "cannot start"
    assert not worker.running


def test_a_worker_that_dies_too_often_in_an_hour_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    worker = supervise(tmp_path, monkeypatch, "kill -SEGV $$", max_restarts=2)
    for _ in range(2):
        run_once(worker)
        find_pause(worker, clock)
    run_once(worker)
    assert worker.gave_up == "gave up after 2 restarts in an hour; last exit code -11 (crashed in native code, SIGSEGV)"
    clock.now_s += 7200
    assert not worker.watch()
    assert not worker.running


def test_a_process_that_the_system_cannot_start_counts_as_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    worker = supervise(tmp_path, monkeypatch, "exit 0", max_restarts=1)
    (tmp_path / "python").unlink()
    assert [worker.watch(), worker.gave_up] == [False, None]
    clock.now_s += 1
    assert worker.watch()
    assert worker.gave_up == "gave up after 1 restart in an hour; last exit code 71 (the system could not start a process)"


def test_a_worker_is_told_its_gpu_and_what_is_expected_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    told = tmp_path / "told"
    worker = supervise(
        tmp_path, monkeypatch, f'echo "$CUDA_VISIBLE_DEVICES $FLEET_WORKER_PROFILE $FLEET_WORKER_DEVICE $@" > {told}'
    )
    run_once(worker)
    devices, profile, device, *command = told.read_text().split()
    assert (devices, profile, device) == ("3", "tiny", "gpu3")
    assert command[command.index("-Q") + 1] == "fleet.tiny"
    assert command[command.index("-c") + 1] == str(Settings().chunks_in_flight)
    assert command[command.index("-P") + 1] == "threads"
    worker.kill()


def test_nothing_is_signalled_while_no_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = supervise(tmp_path, monkeypatch, "exit 70")
    worker.send(signal.SIGTERM)
    worker.kill()
    assert worker.reap()


def test_an_unknown_profile_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="no-such-model"):
        Launcher("no-such-model", parse_gpus("0"), get_settings())
