"""The elements of a SLURM array share one queue, and signals of SLURM do not lose samples."""

import signal

import pytest

from tests.support.asked_samples import count_asked_again, read_asked
from tests.support.deploy.slurm import ARRAY, Slurm
from tests.support.fleet import ROOT, Fleet, make_rows
from tests.support.fleet_processes import assert_no_leases_held, clean_fleet
from tests.support.hardware.fake_gpus import with_gpus
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

MODEL = "recording"
WORKERS = (MODEL, "--gpus", "none")
ROWS = 80
ONE_GPU = {**with_gpus({"PYTHONPATH": str(ROOT)}, 1), "CUDA_VISIBLE_DEVICES": "0"}


def write_profile(fleet: Fleet, *, delay_s: float) -> None:
    options = {"asked": str(fleet.folder / "asked"), "delay_s": delay_s}
    fleet.write_profile(MODEL, engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)


def enqueue_slow(fleet: Fleet, *, delay_s: float = 0.3) -> str:
    """Enqueue a run of slow chunks of 4 samples; return its id."""
    write_profile(fleet, delay_s=delay_s)
    return enqueue_rows(fleet, MODEL, make_rows(ROWS), chunk=4)


def wait_for_asked(fleet: Fleet, count: int) -> None:
    wait_until(lambda: len(read_asked(fleet)) >= count, f"{count} samples to be sent")


@pytest.fixture
def slurm(clean_fleet: Fleet) -> Slurm:
    slurm = Slurm(clean_fleet)
    with slurm.env_file.open("a") as stream:
        stream.write("FLEET_CHUNKS_IN_FLIGHT=2\n")
    return slurm


def test_elements_share_one_queue_and_one_drains_early(clean_fleet: Fleet, slurm: Slurm) -> None:
    fleet = clean_fleet
    write_profile(fleet, delay_s=1.0)
    with slurm.start(0, *WORKERS) as stays, slurm.start(1, *WORKERS) as leaves:
        there = fleet.wait_for_workers(MODEL, 2)
        run_id = enqueue_slow(fleet, delay_s=1.0)
        wait_until(lambda: sum(bool(worker.holds) for worker in fleet.workers(MODEL)) == 2, "both elements to work on the run")
        leaves.signal_shell(signal.SIGUSR1)
        assert leaves.wait() == 0
        wait_until(lambda: len(fleet.workers(MODEL)) == 1, "the exit of one element")
        assert stays.shell.poll() is None
        assert fleet.wait_for_end(run_id).samples.ok == ROWS
        stays.signal_shell(signal.SIGUSR1)
        assert stays.wait() == 0
    outcomes = assert_run_is_sound(fleet, run_id)
    assert {outcome.worker for outcome in outcomes} == {worker.worker for worker in there}
    assert count_asked_again(fleet) == 0
    assert slurm.read_requeued() == []


def test_preempted_element_drains_and_continues_when_requeued(clean_fleet: Fleet, slurm: Slurm) -> None:
    """SLURM sends SIGTERM to every process of the element at the same time."""
    fleet = clean_fleet
    run_id = enqueue_slow(fleet)
    with slurm.start(3, *WORKERS) as preempted:
        wait_for_asked(fleet, 8)
        preempted.signal_all(signal.SIGTERM)
        assert preempted.wait() == 0
        assert "draining: cancelled or preempted" in preempted.read_log()
    assert_no_leases_held(fleet, run_id, MODEL)
    assert 8 <= fleet.status(run_id).samples.ok == len(read_asked(fleet)) < ROWS
    with slurm.start(3, *WORKERS, SLURM_RESTART_COUNT="1") as again:
        assert fleet.wait_for_end(run_id).samples.ok == ROWS
        again.signal_all(signal.SIGTERM)
        assert again.wait() == 0
        assert "start 0 of recording" in again.read_log()
        assert "start 1 of recording" in again.read_log(), "both starts must be in one log"
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) == 0
    assert slurm.read_requeued() == [], "SLURM requeues a preempted element itself"


def test_element_signalled_before_launcher_starts_exits_with_0(clean_fleet: Fleet, slurm: Slurm) -> None:
    run_id = enqueue_slow(clean_fleet)
    with slurm.start(0, *WORKERS) as element:
        wait_until(lambda: "start 0 of recording" in element.read_log(), "the shell to handle signals")
        element.signal_shell(signal.SIGUSR1)
        assert element.wait() == 0
    assert_no_leases_held(clean_fleet, run_id, MODEL)


@pytest.mark.parametrize(("restarts", "requeued"), [("0", [f"requeue {ARRAY}_5"]), ("3", [])])
def test_element_with_killed_launcher_is_requeued_within_limit(
    clean_fleet: Fleet, slurm: Slurm, restarts: str, requeued: list[str]
) -> None:
    """Only this element of the array is requeued, and only a limited number of times."""
    fleet = clean_fleet
    run_id = enqueue_slow(fleet, delay_s=0.01)
    with slurm.start(5, *WORKERS, SLURM_RESTART_COUNT=restarts) as dies:
        fleet.wait_for_workers(MODEL)
        dies.find_launcher().kill()
        assert dies.wait() == 137
        assert slurm.read_requeued() == requeued
    with slurm.start(6, *WORKERS) as other:
        assert fleet.wait_for_end(run_id).samples.ok == ROWS
        other.signal_shell(signal.SIGUSR1)
        assert other.wait() == 0
    assert_run_is_sound(fleet, run_id)


def test_element_with_failing_gpus_is_requeued(clean_fleet: Fleet, slurm: Slurm) -> None:
    """The GPUs of another node may work."""
    write_profile(clean_fleet, delay_s=0.01)
    with slurm.start(5, MODEL, **{**ONE_GPU, "SHOWN_GPUS": "broken"}) as element:
        assert element.wait() == 1
        assert "workers: the NVIDIA driver fails: Driver Not Loaded" in element.read_log()
    assert slurm.read_requeued() == [f"requeue {ARRAY}_5"]


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, "slurm/vlm-fleet-"),
        ({"HF_HOME": "/shared/weights"}, "HF_HOME=/shared/weights"),
        ({"HF_HUB_OFFLINE": "1", "HF_HOME": "/shared/weights"}, "HF_HOME=/shared/weights"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HOME=unset"),
        ({"HF_HUB_OFFLINE": "True"}, "HF_HOME=unset"),
        ({"TRANSFORMERS_OFFLINE": "1"}, "HF_HOME=unset"),
        ({"HF_HUB_OFFLINE": "0"}, "slurm/vlm-fleet-"),
    ],
)
def test_offline_hub_keeps_the_callers_weights_folder(
    clean_fleet: Fleet, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], found: str
) -> None:
    """Without the hub, weights must not be searched in the node's own folder, which is empty."""
    for name in ("HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    launcher = clean_fleet.folder / "venv" / "bin" / "workers"
    launcher.parent.mkdir(parents=True)
    launcher.write_text('#!/bin/sh\necho "HF_HOME=${HF_HOME:-unset} compiled in $VLLM_CACHE_ROOT"\n')
    launcher.chmod(0o700)
    with slurm.start(0, *WORKERS, VLM_FLEET_VENV=str(launcher.parents[1]), **variables) as element:
        assert element.wait() == 0
        (output,) = [line for line in element.read_log().splitlines() if line.startswith("HF_HOME=")]
    assert found in output.partition(" compiled in ")[0]
    assert "slurm/vlm-fleet-" in output.partition(" compiled in ")[2]


def test_user_error_exits_with_2_without_requeue(clean_fleet: Fleet, slurm: Slurm) -> None:
    enqueue_slow(clean_fleet)
    empty = clean_fleet.folder / "empty"
    empty.touch(mode=0o600)
    missing = str(clean_fleet.folder / "missing")
    clean_fleet.write_profile("spans", engine="vllm", engine_options={"tensor_parallel_size": 2})
    output = {
        "did you mean 'recording'": (("recordin", "--gpus", "none"), {}),
        "the model is missing; expected: sbatch": ((), {}),
        f"{missing}/bin/workers is missing": (WORKERS, {"VLM_FLEET_VENV": missing}),
        f"{missing} cannot be read": (WORKERS, {"VLM_FLEET_ENV": missing}),
        f"{empty} does not set FLEET_REDIS_URL": (WORKERS, {"VLM_FLEET_ENV": str(empty)}),
        "1 GPU cannot be divided into groups of 2": (("spans",), ONE_GPU),
    }
    for words, (arguments, variables) in output.items():
        with slurm.start(0, *arguments, **variables) as element:
            assert element.wait() == 2, element.read_log()
            assert words in element.read_log()
    slurm.env_file.chmod(0o640)
    with slurm.start(0, *WORKERS) as element:
        assert element.wait() == 2
        assert f"chmod 600 {slurm.env_file}" in element.read_log()
    assert slurm.read_requeued() == []
