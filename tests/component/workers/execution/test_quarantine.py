"""Quarantine inside the test's process: each engine death ends one worker, and the next worker continues."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from common.deaths import DeathCause
from common.errors import EngineError
from common.records import Standing
from common.storage.plan_index import read_chunk, read_index
from tests.support.asked_samples import read_asked
from tests.support.engines.poison import assert_only_poison_failed, write_poisoned_profile
from tests.support.fleet import Fleet, make_rows
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import Exited, enqueue_rows, exits, open_worker, read_samples
from workers.engines.base import Generation, Request
from workers.execution.chunk import ChunkResult, run_chunk
from workers.execution.quarantine import UNEXPLAINED_DEATHS
from workers.execution.task import run_task

__all__ = ["exits"]  # a fixture


class BrokenEngine:
    """An engine that dies at every request."""

    async def start(self) -> None:
        """Do nothing, because the engine does not load a model."""

    async def generate(self, request: Request) -> Generation:
        del request
        raise EngineError("the GPU does not respond")

    async def stop(self) -> None:
        """Do nothing, because the engine does not hold resources."""


def quarantine_chunk(fleet: Fleet, run_id: str) -> None:
    """Quarantine chunk 0, and prevent its takeover by a janitor."""
    for _ in range(2):
        lease = fleet.ledger.acquire(run_id, 0, "died@test")
        assert lease is not None
        fleet.ledger.release(lease, death=DeathCause.CRASH)
    fleet.ledger.client.set("fleet:janitor:poisoned", "1", ex=600)


def is_asked(fleet: Fleet, run_id: str, index: str) -> bool:
    """Return whether the engine received the sample of chunk 0 with this index."""
    samples = read_chunk(fleet.store, read_index(fleet.store, run_id)[0])
    sample_id = next(sample.sample_id for sample in samples if sample.index == index)
    return sample_id in read_asked(fleet)


def finish_run(fleet: Fleet, run_id: str) -> None:
    """Run the pending chunks until all are done, with one worker at a time."""
    while fleet.ledger.find_pending(run_id):
        with open_worker(fleet, "poisoned", janitor_s=600) as worker:
            try:
                for number in worker.ledger.find_pending(run_id):
                    run_chunk(worker, run_id, number)
            except Exited:
                continue


def test_several_poison_samples_in_a_chunk_are_found(fleet: Fleet, exits: list[int]) -> None:
    write_poisoned_profile(fleet, "raises")
    poisons = [{"id": f"poison {number}", "question": f"poison {number}?", "target": "ok"} for number in range(3)]
    run_id = enqueue_rows(fleet, "poisoned", [*make_rows(9), *poisons], chunk=12)
    finish_run(fleet, run_id)
    assert_only_poison_failed(fleet, run_id, {"poison 0", "poison 1", "poison 2"})
    assert len(exits) == 2 + 3 * 2, "two deaths quarantine the chunk; then each poison sample kills the engine twice"


def test_chunk_of_only_poison_samples_completes(fleet: Fleet, exits: list[int]) -> None:
    write_poisoned_profile(fleet, "raises")
    poisons = [{"id": f"poison {number}", "question": f"poison {number}?", "target": "ok"} for number in range(4)]
    run_id = enqueue_rows(fleet, "poisoned", poisons, chunk=4)
    finish_run(fleet, run_id)
    assert_only_poison_failed(fleet, run_id, {str(poison["id"]) for poison in poisons})


def test_drain_during_a_trial_is_not_a_crash(fleet: Fleet, exits: list[int]) -> None:
    write_poisoned_profile(fleet, "hangs")
    poison = {"id": "poison", "question": "poison?", "target": "ok"}
    run_id = enqueue_rows(fleet, "poisoned", [poison], chunk=4)
    quarantine_chunk(fleet, run_id)
    asked = fleet.folder / "asked"
    for _ in range(3):
        with open_worker(fleet, "poisoned", janitor_s=600) as worker, ThreadPoolExecutor(1) as pool:
            running = pool.submit(run_chunk, worker, run_id, 0)
            wait_until(lambda: is_asked(fleet, run_id, "poison"), "the sample to run alone")
            worker.leases.drain(at_once=True)
            assert running.result(20) == "given back"
            asked.unlink()
    assert exits == []
    lease = wait_until(lambda: fleet.ledger.acquire(run_id, 0, "next@test"), "a lease")
    assert lease.standing == Standing.QUARANTINED
    assert fleet.ledger.read_deaths(lease) == {}


def test_hanging_sample_counts_despite_early_release(fleet: Fleet, exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    write_poisoned_profile(fleet, "hangs")
    run_id = enqueue_rows(fleet, "poisoned", [{"id": "poison", "question": "poison?", "target": "ok"}], chunk=4)
    quarantine_chunk(fleet, run_id)
    with open_worker(fleet, "poisoned", janitor_s=600) as worker, ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_chunk, worker, run_id, 0)
        wait_until(lambda: is_asked(fleet, run_id, "poison"), "the sample to run alone")
        with monkeypatch.context() as patch:
            patch.setattr(worker.leases, "wait_for_acquire", lambda: running.result(20))
            with pytest.raises(Exited):
                worker.die("the engine has not answered", DeathCause.STALL)
    assert running.result() == "given back"
    lease = wait_until(lambda: fleet.ledger.acquire(run_id, 0, "next@test"), "a lease")
    (poison,) = read_chunk(fleet.store, read_index(fleet.store, run_id)[0])
    assert fleet.ledger.read_deaths(lease) == {(poison.sample_id,): {DeathCause.STALL: 1}}


@pytest.mark.parametrize("cause", [DeathCause.KILL, DeathCause.OUT_OF_MEMORY])
def test_unexplained_deaths_pause_the_run_and_name_the_sample(fleet: Fleet, exits: list[int], cause: DeathCause) -> None:
    """After ``resume``, the sample is tried the same number of times again."""
    write_poisoned_profile(fleet, "raises")
    poison = {"id": "poison", "question": "poison?", "target": "ok"}
    run_id = enqueue_rows(fleet, "poisoned", [*make_rows(3), poison], chunk=4)
    quarantine_chunk(fleet, run_id)
    for _ in range(2):
        exits.clear()
        for _ in range(UNEXPLAINED_DEATHS):
            with open_worker(fleet, "poisoned", janitor_s=600) as worker:
                worker.host.engine.cause = cause  # type: ignore[attr-defined]  # a scripted engine
                with pytest.raises(Exited):
                    run_chunk(worker, run_id, 0)
        with open_worker(fleet, "poisoned", janitor_s=600, lease_s=0.1, renew_s=0.02) as worker:
            assert run_task(worker, run_id, 0) == ChunkResult.FAILED
        assert len(exits) == UNEXPLAINED_DEATHS
        status = fleet.status(run_id)
        assert (status.state, status.samples.failed) == ("paused", 0)
        assert "dataset rows, row poison" in (status.reason or "")
        assert f"producer resume {run_id}" in (status.reason or "")
        fleet.run_producer("resume", run_id)
        wait_until(lambda: fleet.ledger.expire_leases(run_id), "the chunk to be offered again")


def test_engine_death_at_control_does_not_fail_samples(fleet: Fleet, exits: list[int]) -> None:
    write_poisoned_profile(fleet, "raises")
    poison = {"id": "poison", "question": "poison?", "target": "ok"}
    run_id = enqueue_rows(fleet, "poisoned", [*make_rows(3), poison], chunk=4)
    quarantine_chunk(fleet, run_id)
    for _ in range(4):
        with open_worker(fleet, "poisoned", janitor_s=600) as worker:
            worker.host.engine = BrokenEngine()
            with pytest.raises(Exited):
                run_chunk(worker, run_id, 0)
            assert "at fault, not the samples" in (worker.trouble or "")
    lease = wait_until(lambda: fleet.ledger.acquire(run_id, 0, "next@test"), "a lease")
    assert fleet.ledger.read_deaths(lease) == {}
    fleet.ledger.release(lease)
    finish_run(fleet, run_id)
    assert_only_poison_failed(fleet, run_id, {"poison"})


def test_control_is_a_sample_with_an_ok_outcome(fleet: Fleet, exits: list[int]) -> None:
    write_poisoned_profile(fleet, "raises")
    run_id = enqueue_rows(fleet, "poisoned", make_rows(8), chunk=4)
    with open_worker(fleet, "poisoned", janitor_s=600) as worker:
        run_chunk(worker, run_id, 1)
        answered = {sample.sample_id for sample in read_samples(worker, run_id, 1)}
    quarantine_chunk(fleet, run_id)
    (fleet.folder / "asked").unlink()
    with open_worker(fleet, "poisoned", janitor_s=600) as worker:
        run_chunk(worker, run_id, 0)
    asked = (fleet.folder / "asked").read_text().split()
    assert asked[0] in answered
    assert len(asked) == 1 + 4
    assert exits == []
    assert_run_is_sound(fleet, run_id)


def test_plain_question_replaces_unreadable_control(fleet: Fleet, exits: list[int]) -> None:
    write_poisoned_profile(fleet, "raises")
    rows = [{**row, "image": f"{number}.png"} for number, row in enumerate(make_rows(8))]
    for row in rows:
        Image.new("RGB", (28, 28)).save(fleet.folder / str(row["image"]))
    run_id = enqueue_rows(fleet, "poisoned", rows, chunk=4)
    with open_worker(fleet, "poisoned", janitor_s=600) as worker:
        run_chunk(worker, run_id, 1)
        for sample in read_samples(worker, run_id, 1):
            (fleet.folder / f"{int(sample.index)}.png").unlink()
    quarantine_chunk(fleet, run_id)
    (fleet.folder / "asked").unlink()
    with open_worker(fleet, "poisoned", janitor_s=600) as worker:
        run_chunk(worker, run_id, 0)
    asked = (fleet.folder / "asked").read_text().split()
    assert asked[0] == "control"
    assert len(asked) == 1 + 4
    assert exits == []
