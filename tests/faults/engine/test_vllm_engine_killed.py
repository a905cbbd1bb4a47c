"""vLLM's engine process gets SIGKILL, SIGSTOP or SIGTERM during a run.

The worker releases its chunks, and the run completes with correct results.
"""

import math
import os
import signal
import time

import psutil
import pytest

from common.ledger.worker_registry import WorkerRecord
from common.records import Outcome
from tests.support.asked_samples import find_stored
from tests.support.engines.requests import TINY
from tests.support.engines.vllm_cpu.environment import OPTIONS, vllm_environment
from tests.support.engines.vllm_cpu.process import LOAD_S
from tests.support.fleet import ROOT, Fleet
from tests.support.fleet_processes import clean_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until

__all__ = ["clean_fleet"]  # a fixture

MODEL = "seeing"
SAMPLES = 600
CHUNK_SAMPLES = 16
LONG_LEASE_S = 600  # longer than the test: the chunks must be released, because their leases do not expire in time
STALL_S = 15
SHAPES = {"path": str(ROOT / "examples" / "data" / "shapes.jsonl"), "limit": SAMPLES, "fields": {"id": "qid", "target": "answer"}}


@pytest.fixture
def vllm_fleet(clean_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Return a fleet whose workers run real vLLM with a vision model."""
    plain = clean_fleet.environment
    monkeypatch.setattr(clean_fleet, "environment", lambda **settings: {**plain(**settings), **vllm_environment()})
    # Few concurrent requests, so that the engine dies in the middle of the run.
    options = {**OPTIONS, "max_num_seqs": 4}
    clean_fleet.write_profile(MODEL, engine="vllm", weights=TINY, adapter="chat", engine_options=options)
    return clean_fleet


def wait_for_engine(fleet: Fleet, *, not_of: set[int]) -> tuple[WorkerRecord, psutil.Process]:
    """Return a worker whose pid is not in ``not_of``, and its engine's process."""

    def find() -> tuple[WorkerRecord, psutil.Process] | None:
        for worker in fleet.workers(MODEL):
            if worker.state == "ready" and worker.pid not in not_of:
                (core,) = (one for one in psutil.Process(worker.pid).children() if one.name() == "VLLM::EngineCore")
                return worker, core
        return None

    return wait_until(find, "a worker with vLLM", deadline_s=LOAD_S)


def wait_for_stored(fleet: Fleet, run_id: str, count: int) -> None:
    wait_until(lambda: len(find_stored(fleet, run_id)) >= count, f"{count} samples in journals or parts", deadline_s=LOAD_S)


@pytest.mark.timeout(5 * LOAD_S)
def test_killed_or_stopped_vllm_repeats_only_in_flight(vllm_fleet: Fleet) -> None:
    """The first engine process gets SIGKILL, and the engine process of the next worker gets SIGSTOP."""
    fleet = vllm_fleet
    generation = {"max_tokens": 32, "temperature": 0.0}
    spec = fleet.write_spec(MODEL, [SHAPES], chunks={"max_samples": CHUNK_SAMPLES}, generation=generation)
    run_id = fleet.enqueue(spec).run_id
    fleet.start_workers(MODEL, lease_s=LONG_LEASE_S, engine_stall_s=STALL_S)
    stored_at: dict[str, float] = {}
    workers: set[int] = set()
    for sent in (signal.SIGKILL, signal.SIGSTOP):
        worker, core = wait_for_engine(fleet, not_of=workers)
        workers.add(worker.pid)
        assert os.getpgid(core.pid) == worker.pid, "the engine must be in the worker's process group, which is killed with it"
        wait_for_stored(fleet, run_id, len(stored_at) + 40)
        core.send_signal(sent)
        stored, noted_at = find_stored(fleet, run_id), time.time()
        stored_at = {sample_id: stored_at.get(sample_id, noted_at) for sample_id in stored}
        assert len(stored_at) < SAMPLES

    assert fleet.wait_for_end(run_id, deadline_s=LOAD_S).samples.unique == SAMPLES
    outcomes = {outcome.sample_id: outcome for outcome in assert_run_is_sound(fleet, run_id)}
    assert [outcome for outcome in outcomes.values() if outcome.status == "failed"] == []
    asked_again = {name for name, at in stored_at.items() if (outcomes[name].finished_at or math.inf) > at}
    assert asked_again == set()
    log = fleet.read_log()
    assert "vLLM's engine process has exited" in log
    assert f"the engine has not answered a request for {STALL_S} s" in log
    assert (log.count("exit_code=72"), log.count("exit_code=70")) == (1, 1)
    assert log.count("worker.started") == len(workers) + 1


@pytest.mark.timeout(5 * LOAD_S)
def test_requests_aborted_by_terminated_vllm_are_retried(vllm_fleet: Fleet) -> None:
    """On SIGTERM, vLLM ends its requests with truncated answers, which must never become outcomes."""
    fleet = vllm_fleet

    def enqueue(chunk_samples: int) -> str:
        generation = {"max_tokens": 32, "temperature": 0.0}
        shapes = {**SHAPES, "limit": SAMPLES // 2}
        spec = fleet.write_spec(MODEL, [shapes], chunks={"max_samples": chunk_samples}, generation=generation)
        return fleet.enqueue(spec).run_id

    fleet.start_workers(MODEL, lease_s=LONG_LEASE_S)
    _, core = wait_for_engine(fleet, not_of=set())
    undisturbed = enqueue(CHUNK_SAMPLES)
    assert fleet.wait_for_end(undisturbed, deadline_s=LOAD_S).samples.ok == SAMPLES // 2
    disturbed = enqueue(CHUNK_SAMPLES - 1)
    wait_for_stored(fleet, disturbed, 40)
    core.terminate()
    assert len(find_stored(fleet, disturbed)) < SAMPLES // 2

    assert fleet.wait_for_end(disturbed, deadline_s=LOAD_S).samples.ok == SAMPLES // 2
    outcomes = assert_run_is_sound(fleet, disturbed)
    assert {attempt.finish_reason for outcome in outcomes for attempt in outcome.attempts} == {"stop"}
    assert to_answers(outcomes) == to_answers(fleet.collect(undisturbed))
    assert "vLLM's engine process is exiting: it aborted the request" in fleet.read_log()


def to_answers(outcomes: list[Outcome]) -> dict[str, list[str]]:
    return {outcome.sample_id: [attempt.response for attempt in outcome.attempts] for outcome in outcomes}
