"""A run planned by an earlier version: its id does not cover engine options, and its media do not have digests."""

import json
import shutil
from pathlib import Path

import pytest

from common.storage.keys import fingerprint_key
from common.storage.run_record import load_planned_run
from tests.support.fleet import Fleet
from tests.support.media.pictures import make_png, write_files
from tests.support.planning import run_chunks

DATA = Path(__file__).resolve().parents[3] / "data" / "old_store"
RUN = "old-96f6cef78532"


@pytest.fixture
def old_fleet(fleet: Fleet) -> Fleet:
    """Return a fleet with the store, the profile and the spec of the earlier version."""
    shutil.copytree(DATA / "store", fleet.folder / "store", dirs_exist_ok=True)
    shutil.copy(DATA / "old.yaml", fleet.folder / "profiles")
    for name in ("rows.jsonl", "spec.yaml", "old.yaml"):
        shutil.copy(DATA / name, fleet.folder)
    write_files(fleet.folder, {"pictures/five.png": make_png()})
    return fleet


def test_earlier_plan_is_finished_and_collected(old_fleet: Fleet) -> None:
    old_fleet.run_producer("resume", RUN)
    status = json.loads(old_fleet.run_producer("status", RUN, "--json"))
    assert (status["run_id"], status["samples"]["ok"], status["samples"]["unprocessed"]) == (RUN, 2, 4)
    run_chunks(old_fleet, "old", RUN)
    assert old_fleet.status(RUN).state == "done"
    assert len(old_fleet.collect(RUN)) == 6
    old_fleet.run_producer("collect", RUN, "--out", str(old_fleet.folder / "out"))
    assert {outcome.status for outcome in old_fleet.collect(RUN)} == {"ok"}  # the picture's chunk was finished before
    assert old_fleet.store.exists(fingerprint_key(RUN))


def test_earlier_plan_is_rebuilt_and_retried(old_fleet: Fleet) -> None:
    old_fleet.run_producer("resume", RUN, "--rebuild", "--retry", "failed,invalid")
    assert load_planned_run(old_fleet.store, RUN).run_id == RUN


def test_enqueue_names_the_earlier_run(old_fleet: Fleet) -> None:
    text = "".join(old_fleet.run_producer("enqueue", str(old_fleet.folder / "spec.yaml")).split("\n"))
    assert f"An earlier version planned the spec as {RUN}" in " ".join(text.split())
    enqueued = old_fleet.enqueue(old_fleet.folder / "spec.yaml")
    assert enqueued.earlier_run == RUN
    assert enqueued.run_id != RUN
    assert len(old_fleet.collect(RUN)) == 6


def test_enqueue_of_new_spec_does_not_name_earlier_run(old_fleet: Fleet) -> None:
    (old_fleet.folder / "spec.yaml").write_text("{model: ./old.yaml, datasets: [{path: rows.jsonl}], chunks: {max_samples: 3}}")
    assert old_fleet.enqueue(old_fleet.folder / "spec.yaml").earlier_run is None


def test_run_with_other_options_is_not_an_earlier_run(old_fleet: Fleet) -> None:
    path = old_fleet.folder / "old.yaml"
    path.write_text(path.read_text().replace("default: ok", "default: other"))
    assert old_fleet.enqueue(old_fleet.folder / "spec.yaml").earlier_run is None
