"""``enqueue`` while the folder of a local store is missing."""

import json
from pathlib import Path

from tests.support.fleet import Fleet, make_rows
from tests.support.planning import run_chunks


def write_spec(fleet: Fleet) -> Path:
    fleet.write_profile("quick")
    return fleet.write_spec("quick", [fleet.write_dataset("rows", make_rows(20))], chunks={"max_samples": 5})


def test_enqueue_does_not_replace_a_missing_store(fleet: Fleet) -> None:
    spec = write_spec(fleet)
    run_id = fleet.enqueue(spec).run_id
    run_chunks(fleet, "quick", run_id)
    store = fleet.folder / "store"
    away = store.rename(fleet.folder / "away")
    assert "the folder does not exist" in fleet.run_producer("enqueue", str(spec), code=3)
    assert not store.exists()
    away.rename(store)
    assert fleet.status(run_id).samples.ok == 20


def test_first_enqueue_creates_the_store(fleet: Fleet) -> None:
    store, spec = fleet.folder / "store", write_spec(fleet)
    store.rename(fleet.folder / "empty")
    run_id = json.loads(fleet.run_producer("enqueue", str(spec), "--json"))["run_id"]
    assert (store / "runs" / run_id / "run.json").exists()
