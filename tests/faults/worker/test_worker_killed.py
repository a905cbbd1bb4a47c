"""A worker gets SIGKILL. The launcher restarts it, or another worker takes over. Samples are not lost or counted twice."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from common.ledger.keys import run_keys
from common.storage.plan_index import read_chunk, read_index
from tests.support.engines.dying_engine import POINTS
from tests.support.fleet import Fleet, make_rows, start_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until

TAKEOVER_LIMIT_S = 20.0  # the limit in README.md
CHUNK_SAMPLES = 16


@pytest.mark.parametrize("point", POINTS)
def test_restarted_worker_repeats_only_samples_in_flight(fleet: Fleet, point: str) -> None:
    options = {
        "die_at": point,
        "after_chunks": random.Random(f"kill {point}").randint(2, 6),
        "died_with": str(fleet.folder / "died_with"),
        "asked": str(fleet.folder / "asked"),
        "delay_s": 0.01,
    }
    fleet.write_profile("mortal", engine="tests.support.engines.dying_engine:DyingEngine", engine_options=options)
    spec = fleet.write_spec("mortal", [fleet.write_dataset("rows", make_rows(200))], chunks={"max_samples": CHUNK_SAMPLES})
    run_id = fleet.enqueue(spec).run_id
    fleet.start_workers("mortal", chunks_in_flight=2)

    assert fleet.wait_for_end(run_id).samples.ok == 200

    assert_run_is_sound(fleet, run_id)
    died_with = int((fleet.folder / "died_with").read_text())
    asked_again = find_asked_again(fleet)
    finished_before = {sample.sample_id for sample in read_chunk(fleet.store, read_index(fleet.store, run_id)[died_with])}
    assert not asked_again & finished_before, "a chunk with all samples in the journal must not be sent again"
    assert len(asked_again) <= CHUNK_SAMPLES, "only the other chunk in flight may be sent again"
    assert all(len(outcome.attempts) == 1 for outcome in fleet.collect(run_id))


def test_another_worker_takes_over_within_20_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with start_fleet(tmp_path, monkeypatch, lease_s=10, renew_s=2.5, janitor_s=2) as fleet:  # the defaults of a real fleet
        options = {"delay_s": 2, "asked": str(fleet.folder / "asked")}
        fleet.write_profile("slow", engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
        spec = fleet.write_spec("slow", [fleet.write_dataset("rows", make_rows(320))], chunks={"max_samples": CHUNK_SAMPLES})
        for _ in range(2):
            fleet.start_workers("slow", chunks_in_flight=2)
        victim = fleet.wait_for_workers("slow", 2)[0]
        run_id = fleet.enqueue(spec).run_id

        wait_until(lambda: fleet.status(run_id).samples.ok, "the first chunks to be done")
        before = find_held(fleet, run_id, victim.worker)
        wait_until(lambda: find_held(fleet, run_id, victim.worker) - before, "a chunk that the worker has just started")
        os.kill(victim.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        orphans = find_held(fleet, run_id, victim.worker)
        assert orphans, "the killed worker must hold a chunk"
        wait_until(lambda: not orphans & find_held(fleet, run_id, victim.worker), "a takeover", deadline_s=60)
        takeover_s = time.monotonic() - killed_at
        with capsys.disabled():
            print(f"\n  from kill to takeover: {takeover_s:.1f} s")  # noqa: T201  # shows the measured time

        fleet.wait_for_end(run_id)
        assert_run_is_sound(fleet, run_id)
        assert takeover_s <= TAKEOVER_LIMIT_S
        assert len(find_asked_again(fleet)) <= 2 * CHUNK_SAMPLES


def find_held(fleet: Fleet, run_id: str, worker: str) -> set[tuple[int, str]]:
    """Return the chunks that a worker has leased, with their tokens, because a restarted worker keeps its name."""
    held: Any = fleet.ledger.client.hgetall(run_keys(run_id).holders)
    holders = {int(chunk): holder.decode().partition(" ") for chunk, holder in held.items()}
    return {(chunk, token) for chunk, (token, _, name) in holders.items() if name == worker}


def find_asked_again(fleet: Fleet) -> set[str]:
    asked = Counter((fleet.folder / "asked").read_text().split())
    return {sample_id for sample_id, times in asked.items() if times > 1}
