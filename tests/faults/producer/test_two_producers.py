"""Two producers enqueue the same spec at the same time: one plan, one run, one outcome for each sample."""

import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from common.storage.keys import index_key, run_key, samples_key, twins_key
from common.storage.run_record import read_run
from tests.support.fleet import Fleet, make_rows, start_fleet
from tests.support.producers import SIGNALLED_PRODUCER, await_end, run_signalled, start_producer
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until

SAMPLES, ROWS = 300, 340
DEATHS = sorted(
    {"while_sorting_samples", "while_writing_samples", "after_samples", "after_index", "after_run_record", "after_open"}
)
# At these points the other producer has not recorded the run yet, so the producer that dies must do all steps.
RESTS = ["while_sorting_samples", "while_writing_samples", "after_samples"]


@pytest.fixture(params=["folder", "s3"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    url = request.getfixturevalue("s3_url") if request.param == "s3" else f"file://{tmp_path}/store"
    with start_fleet(tmp_path, monkeypatch, store_url=url) as started:
        options = {"asked": str(tmp_path / "asked")}
        started.write_profile("recording", engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
        yield started


def write_spec(fleet: Fleet, seed: int) -> Path:
    rows = [*make_rows(SAMPLES), *make_rows(ROWS - SAMPLES)]  # the last rows are duplicates
    return fleet.write_spec("recording", [fleet.write_dataset("rows", rows)], chunks={"max_samples": 10}, shuffle={"seed": seed})


def assert_one_outcome_per_sample(fleet: Fleet, run_id: str) -> None:
    fleet.start_workers("recording", chunks_in_flight=2)
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
    assert len(assert_run_is_sound(fleet, run_id)) == SAMPLES
    asked = Counter((fleet.folder / "asked").read_text().split())
    assert set(asked.values()) == {1}
    planned = {samples_key(run_id), twins_key(run_id), index_key(run_id)}
    assert set(fleet.store.list_keys(f"runs/{run_id}/plan")) == planned


@pytest.mark.parametrize("seed", range(2))
def test_two_producers_of_one_spec_make_one_run(fleet: Fleet, seed: int) -> None:
    spec = str(write_spec(fleet, seed))
    both = [start_producer(fleet, "enqueue", spec, "--json") for _ in range(2)]
    ended = [await_end(one) for one in both]
    assert [one.code for one in ended] == [0, 0], ended
    results = [json.loads(one.stdout) for one in ended]
    assert results[0]["run_id"] == results[1]["run_id"]
    assert results[0]["plan"] == results[1]["plan"]
    assert sorted(one["opened"] for one in results) == [False, True]
    run_id = results[0]["run_id"]
    assert {key.split("/")[1] for key in fleet.store.list_keys("runs")} == {run_id}
    _, plan = read_run(fleet.store, run_id)
    assert plan.model_dump(mode="json") == results[0]["plan"]
    assert_one_outcome_per_sample(fleet, run_id)


@pytest.mark.parametrize("seed", range(2))
def test_killed_producer_does_not_affect_the_other(fleet: Fleet, seed: int) -> None:
    chosen = random.Random(seed)
    death, rest = chosen.choice(DEATHS), chosen.choice(RESTS)
    spec = str(write_spec(fleet, seed))
    with start_producer(fleet, f"{rest}/SIGSTOP", "enqueue", spec, "--json", module=SIGNALLED_PRODUCER) as living:
        try:
            wait_until(
                lambda: psutil.Process(living.pid).status() == psutil.STATUS_STOPPED,
                "one producer to stop in the middle of planning",
            )
            died = run_signalled(fleet, death, "enqueue", spec)
            assert died.code == -signal.SIGKILL, died
            living.send_signal(signal.SIGCONT)
            lived = await_end(living)
        finally:
            living.kill()
    assert lived.code == 0, lived
    run_id = json.loads(lived.stdout)["run_id"]
    assert fleet.store.exists(run_key(run_id))
    assert_one_outcome_per_sample(fleet, run_id)
