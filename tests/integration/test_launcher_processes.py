"""``workers start`` with real processes: which processes it starts, which processes end together, and how a failed start ends."""

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet, find_processes, start_launcher
from tests.support.hardware.fake_gpus import with_gpus
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture


def read_notes(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def has_exited(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_each_gpu_worker_owns_a_session_and_restarts(clean_fleet: Fleet) -> None:
    """The death of a worker also ends its child processes."""
    fleet = clean_fleet
    notes = fleet.folder / "notes"
    fleet.write_profile("parent", engine="tests.support.engines.faulty_engines:ParentEngine", engine_options={"notes": str(notes)})
    with start_launcher(fleet, "--model", "parent", "--gpus", "all", environment=with_gpus(fleet.environment(), 2)) as launcher:
        there = fleet.wait_for_workers("parent", 2)
        host = socket.gethostname()
        assert {(worker.worker, worker.device) for worker in there} == {(f"gpu{n}@{host}", f"gpu{n}") for n in (0, 1)}
        by_gpu = {note["devices"]: note for note in read_notes(notes)}
        assert set(by_gpu) == {"0", "1"}
        assert {os.getsid(worker.pid) for worker in there} == {worker.pid for worker in there}
        assert {os.getpgid(note["child"]) for note in by_gpu.values()} == {worker.pid for worker in there}

        victim, other = by_gpu["0"], by_gpu["1"]
        os.kill(victim["pid"], signal.SIGKILL)
        wait_until(lambda: has_exited(victim["child"]), "the killed worker's child to end")
        wait_until(lambda: len(read_notes(notes)) == 3, "the worker to restart")
        assert read_notes(notes)[-1]["devices"] == "0"
        assert not has_exited(other["pid"])
        assert not has_exited(other["child"])

        os.killpg(launcher.pid, signal.SIGINT)  # like Ctrl+C in a terminal
        assert launcher.wait(timeout=30) == 0
        assert find_processes(fleet) == []
        assert fleet.workers("parent") == []


def test_configuration_error_is_logged_once_with_exit_2(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    fleet.write_profile("wrong", engine="tests.support.engines.faulty_engines:MisconfiguredEngine")
    with start_launcher(fleet, "--model", "wrong", "--gpus", "none", environment=fleet.environment()) as launcher:
        _, log = launcher.communicate(timeout=30)
    assert launcher.returncode == 2
    assert log.count("engine_options.depth: expected 1 to 8, found 9") == 1
    assert log.count("worker.started") == 1
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (("--model", "parrent", "--gpus", "none"), "did you mean 'parent'"),
        (("--model", "parent", "--gpus", "two"), "--gpus 'two': expected none, all, or GPU numbers"),
        (("--model", "parent", "--gpus", "0-7"), "GPU 2 is not one of the GPUs of this machine: 0 (NVIDIA H100"),
        (("--model", "parent", "--gpus", "0+1"), "the engine echo of profile parent runs on one GPU"),
        (("--model", "parent", "--model", "parent", "--gpus", "all"), "--model A --gpus 0-1 --model B --gpus 2,3"),
        (("--model", "parent", "--gpus", "none", "--replicas", "0"), "0 is not in the range 1<=x<=64"),
        (("--gpus", "none"), "Missing option '--model'"),
    ],
)
def test_wrong_command_exits_with_2_and_message(clean_fleet: Fleet, arguments: tuple[str, ...], output: str) -> None:
    clean_fleet.write_profile("parent")
    with start_launcher(clean_fleet, *arguments, environment=with_gpus(clean_fleet.environment(), 2)) as launcher:
        _, log = launcher.communicate(timeout=30)
    assert launcher.returncode == 2
    assert output in log
    assert "Traceback" not in log


def test_missing_driver_error_gives_advice(clean_fleet: Fleet) -> None:
    clean_fleet.write_profile("parent")
    environment = with_gpus(clean_fleet.environment(), 0)
    with start_launcher(clean_fleet, "--model", "parent", environment=environment) as launcher:
        _, log = launcher.communicate(timeout=30)
    assert launcher.returncode == 2
    assert "no NVIDIA driver found here" in log
    assert "use --gpus none" in log
    assert "Traceback" not in log


def test_replicas_serve_one_queue_under_unique_names(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    fleet.write_profile("twice", engine_options={"delay_s": 0.2})
    run_id = enqueue_rows(fleet, "twice", make_rows(64), chunk=2)
    arguments = ("--model", "twice", "--gpus", "none", "--replicas", "2")
    with start_launcher(fleet, *arguments, environment=fleet.environment(chunks_in_flight=1)) as launcher:
        names = {f"cpu{launcher.pid}.{number}@{socket.gethostname()}" for number in (1, 2)}
        assert {worker.worker for worker in fleet.wait_for_workers("twice", 2)} == names
        assert fleet.wait_for_end(run_id).samples.ok == 64
        assert_run_is_sound(fleet, run_id)
        launcher.terminate()
        assert launcher.wait(timeout=30) == 0
    assert {outcome.worker for outcome in fleet.collect(run_id)} == names
    assert fleet.workers("twice") == []


def test_replicas_on_one_gpu_load_sequentially(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    notes = fleet.folder / "notes"
    options = {"notes": str(notes), "load_s": 1.0}
    fleet.write_profile("slow", engine="tests.support.engines.loading_engine:LoadingEngine", engine_options=options)
    arguments = ("--model", "slow", "--gpus", "0-1", "--replicas", "2")
    with start_launcher(fleet, *arguments, environment=with_gpus(fleet.environment(), 2)) as launcher:
        there = fleet.wait_for_workers("slow", 4)
        assert sorted(worker.device for worker in there) == ["gpu0.1", "gpu0.2", "gpu1.1", "gpu1.2"]
        assert {worker.gpu for worker in there} == {"NVIDIA H100 80GB HBM3"}
        for gpu in ("gpu0", "gpu1"):
            mine = [line for line in notes.read_text().splitlines() if line.startswith(gpu)]
            assert mine == [f"{gpu}.1 begins", f"{gpu}.1 ends", f"{gpu}.2 begins", f"{gpu}.2 ends"]
        launcher.terminate()
        assert launcher.wait(timeout=30) == 0


def test_two_models_serve_their_own_queues(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    runs = {}
    for model in ("first", "second"):
        fleet.write_profile(model, engine_options={"default": f"of {model}"})
        runs[model] = enqueue_rows(fleet, model, make_rows(16), chunk=4)
    arguments = ("--model", "first", "--gpus", "none", "--model", "second", "--gpus", "none")
    with start_launcher(fleet, *arguments, environment=fleet.environment()) as launcher:
        for number, (model, run_id) in enumerate(runs.items(), start=1):
            assert fleet.wait_for_end(run_id).samples.ok == 16
            outcomes = fleet.collect(run_id)
            assert {outcome.response for outcome in outcomes} == {f"of {model}"}
            assert {outcome.worker for outcome in outcomes} == {f"cpu{launcher.pid}.{number}@{socket.gethostname()}"}
        launcher.terminate()
        assert launcher.wait(timeout=30) == 0


def test_failing_model_pauses_only_its_own_runs(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    fleet.write_profile("wrong", engine="tests.support.engines.faulty_engines:MisconfiguredEngine")
    fleet.write_profile("right")
    hopeless, well = (enqueue_rows(fleet, model, make_rows(8), chunk=4) for model in ("wrong", "right"))
    arguments = ("--model", "wrong", "--gpus", "none", "--model", "right", "--gpus", "none")
    with start_launcher(fleet, *arguments, environment=fleet.environment()) as launcher:
        status = fleet.wait_for_end(hopeless)
        assert (status.state, status.samples.unprocessed) == ("paused", 8)
        assert "no worker of wrong is left" in (status.reason or "")
        assert (fleet.wait_for_end(well).state, launcher.poll()) == ("done", None)
        launcher.terminate()
        assert launcher.wait(timeout=30) == 0


def test_chosen_engine_options_are_logged_once_with_reason(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    fleet.write_profile("missing", engine="hf", weights="/nonexistent")
    environment = with_gpus(fleet.environment(log_json="true"), 2)
    with start_launcher(fleet, "--model", "missing", "--gpus", "0-1", environment=environment) as launcher:
        _, log = launcher.communicate(timeout=60)
    assert launcher.returncode == 2
    chosen = [json.loads(line) for line in log.splitlines() if '"engine_options.chosen"' in line]
    host = socket.gethostname()
    assert {line["worker"]: line["preset"] for line in chosen} == {
        f"gpu{number}@{host}": "79.0 GiB free of 80.0: max_batch_size=16 (from 21 GiB up)" for number in (0, 1)
    }
    assert len(chosen) == 2


def test_unreachable_redis_exits_with_3_and_advice(clean_fleet: Fleet) -> None:
    clean_fleet.write_profile("parent")
    clean_fleet.server.stop()
    with start_launcher(clean_fleet, "--model", "parent", "--gpus", "none", environment=clean_fleet.environment()) as launcher:
        _, log = launcher.communicate(timeout=60)
    clean_fleet.server.restart()
    assert launcher.returncode == 3
    assert f"Redis at 127.0.0.1:{clean_fleet.server.port}" in log
    assert "FLEET_REDIS_URL" in log
    assert "Traceback" not in log


def test_second_launcher_on_one_gpu_is_refused(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    environment = with_gpus(fleet.environment(), 1)
    for model in ("first", "second"):
        fleet.write_profile(model)
    with start_launcher(fleet, "--model", "first", "--gpus", "0", environment=environment):
        (worker,) = fleet.wait_for_workers("first")
        with start_launcher(fleet, "--model", "second", "--gpus", "0", environment=environment) as launcher:
            _, log = launcher.communicate(timeout=60)
            assert launcher.returncode == 2
            assert f"{worker.worker} is already running: process {worker.pid} with model first" in log
            assert fleet.wait_for_end(enqueue_rows(fleet, "first", make_rows(4))).samples.ok == 4


def test_failing_node_does_not_pause_runs_while_another_loads(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    fleet.write_profile("shared", engine_options={"load_s": 12.0})
    run_id = enqueue_rows(fleet, "shared", make_rows(4))
    with start_launcher(fleet, "--model", "shared", "--gpus", "none", environment=fleet.environment()):
        wait_until(lambda: [one.state for one in fleet.workers("shared")] == ["loading"], "a worker that is loading")
        fleet.write_profile("shared", engine="tests.support.engines.faulty_engines:MisconfiguredEngine")
        with start_launcher(fleet, "--model", "shared", "--gpus", "none", environment=fleet.environment()) as launcher:
            launcher.communicate(timeout=30)
            assert launcher.returncode == 2
            assert "loading" in {one.state for one in fleet.workers("shared")}, (
                "the first node must still load when the other fails"
            )
            assert fleet.wait_for_end(run_id).state == "done"
