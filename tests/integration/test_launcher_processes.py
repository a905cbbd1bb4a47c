"""``workers start`` with real processes: who is started, who dies with whom, and how it ends when it cannot begin."""

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.fleet import Fleet
from tests.support.leftovers import clean_fleet, find_processes, start_launcher
from tests.support.waiting import wait_until

__all__ = ["clean_fleet"]  # a fixture


def read_notes(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def show_two_gpus(fleet: Fleet) -> dict[str, str]:
    """Return an environment in which ``nvidia-smi`` is a stand-in that lists two GPUs."""
    program = fleet.folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: GPU-a)'\necho 'GPU 1: H100 (UUID: GPU-b)'\n")
    program.chmod(0o755)
    environment = fleet.environment()
    return {**environment, "PATH": f"{program.parent}{os.pathsep}{environment['PATH']}"}


def test_one_worker_a_gpu_in_a_session_of_its_own_that_dies_whole_and_comes_back(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    notes = fleet.folder / "notes"
    fleet.write_profile("parent", engine="tests.support.faulty_engines:ParentEngine", engine_options={"notes": str(notes)})
    with start_launcher(fleet, "--model", "parent", "--gpus", "all", environment=show_two_gpus(fleet)) as launcher:
        there = fleet.wait_for_workers("parent", 2)
        host = socket.gethostname()
        assert {(worker.worker, worker.device) for worker in there} == {(f"gpu{n}@{host}", f"gpu{n}") for n in (0, 1)}
        by_gpu = {note["devices"]: note for note in read_notes(notes)}
        assert set(by_gpu) == {"0", "1"}
        assert {os.getsid(worker.pid) for worker in there} == {worker.pid for worker in there}
        assert {os.getpgid(note["child"]) for note in by_gpu.values()} == {worker.pid for worker in there}

        victim, other = by_gpu["0"], by_gpu["1"]
        os.kill(victim["pid"], signal.SIGKILL)
        wait_until(lambda: is_gone(victim["child"]), "the killed worker's child to end")
        wait_until(lambda: len(read_notes(notes)) == 3, "the worker to come back")
        assert read_notes(notes)[-1]["devices"] == "0"
        assert not is_gone(other["pid"])
        assert not is_gone(other["child"])

        os.killpg(launcher.pid, signal.SIGINT)  # as Ctrl+C in a terminal
        assert launcher.wait(timeout=30) == 0
        assert find_processes(fleet) == []
        assert fleet.workers("parent") == []


def test_what_the_user_must_change_is_said_once_and_ends_with_2(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    fleet.write_profile("wrong", engine="tests.support.faulty_engines:MisconfiguredEngine")
    with start_launcher(fleet, "--model", "wrong", "--gpus", "none", environment=fleet.environment()) as launcher:
        _, log = launcher.communicate(timeout=30)
    assert launcher.returncode == 2
    assert log.count("engine_options.depth: expected 1 to 8, found 9") == 1
    assert log.count("worker started") == 1
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "parrent", "--gpus", "none"), "did you mean 'parent'"),
        (("--model", "parent", "--gpus", "two"), "--gpus 'two': expected none, all, or different GPU numbers"),
        (("--gpus", "none"), "Missing option '--model'"),
    ],
)
def test_a_wrong_command_ends_with_2_and_words(clean_fleet: Fleet, arguments: tuple[str, ...], said: str) -> None:
    clean_fleet.write_profile("parent")
    with start_launcher(clean_fleet, *arguments, environment=clean_fleet.environment()) as launcher:
        _, log = launcher.communicate(timeout=30)
    assert launcher.returncode == 2
    assert said in log
    assert "Traceback" not in log


def test_a_redis_that_does_not_answer_ends_with_3_and_words(clean_fleet: Fleet) -> None:
    clean_fleet.write_profile("parent")
    clean_fleet.server.stop()
    with start_launcher(clean_fleet, "--model", "parent", "--gpus", "none", environment=clean_fleet.environment()) as launcher:
        _, log = launcher.communicate(timeout=60)
    clean_fleet.server.restart()
    assert launcher.returncode == 3
    assert f"Redis at 127.0.0.1:{clean_fleet.server.port}" in log
    assert "FLEET_REDIS_URL" in log
    assert "Traceback" not in log
