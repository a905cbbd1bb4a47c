"""The file system of the store is unmounted during a run: workers do not write below the mount point, and wait."""

from collections import Counter
from pathlib import Path

from common.storage.keys import parts_prefix
from tests.support.fleet import Fleet, make_rows
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows


def test_run_continues_after_store_was_unmounted(fleet: Fleet) -> None:
    options = {"delay_s": 0.1, "asked": str(fleet.folder / "asked")}
    fleet.write_profile("recording", engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
    run_id = enqueue_rows(fleet, "recording", make_rows(200), chunk=10)
    fleet.start_workers("recording", chunks_in_flight=2)
    wait_until(lambda: len(list(fleet.store.list_keys(parts_prefix(run_id)))) >= 3, "three parts")

    folder = Path(fleet.settings.store_url.removeprefix("file://"))
    away = folder.rename(folder.with_name("away"))
    wait_until(lambda: any(worker.trouble for worker in fleet.workers("recording")), "the worker's trouble")
    (worker,) = fleet.workers("recording")
    assert f"store {folder}: the folder does not exist; nothing is lost" in (worker.trouble or "")
    fleet.start_workers("recording", chunks_in_flight=2, max_restarts=0)  # a worker that starts without the store
    wait_until(lambda: "service.awaited" in fleet.read_log(), "the other worker to wait")
    assert not folder.exists(), "parts below the mount point would be hidden later"
    view = fleet.ledger.view_run(run_id)
    assert view is not None
    assert view.state == "running"

    away.rename(folder)
    assert fleet.wait_for_end(run_id).samples.ok == 200
    assert_run_is_sound(fleet, run_id)
    asked = Counter((fleet.folder / "asked").read_text().split())
    assert set(asked.values()) == {1}, "the journal must be used"
