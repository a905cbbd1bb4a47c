"""A read-only store: workers wait with a message that names the store, and continue by themselves when it is writable."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from common.storage.keys import parts_prefix
from tests.support.faults.faulty_s3 import FaultyS3, answer, faulty_s3
from tests.support.faults.small_disk import SmallDisk, small_disk
from tests.support.fleet import Fleet, make_rows, start_fleet
from tests.support.planning import run_chunks
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["faulty_s3", "small_disk"]  # fixtures


class Forbidding(NamedTuple):
    """A fleet whose store can be made read-only, and the error text of that store."""

    fleet: Fleet
    forbid: Callable[[], None]
    allow: Callable[[], None]
    words: str


@pytest.fixture(params=["folder", "s3"])
def forbidding(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forbidding]:
    if request.param == "folder":
        disk: SmallDisk = request.getfixturevalue("small_disk")
        url, forbid, allow, words = f"file://{disk.folder}/store", disk.forbid_writing, disk.allow_writing, "Read-only file system"
    else:
        proxy: FaultyS3 = request.getfixturevalue("faulty_s3")
        url, allow, words = request.getfixturevalue("s3_url"), proxy.clear_faults, "AccessDenied"

        def forbid() -> None:
            proxy.inject(answer(403, "AccessDenied"), "^PUT ")

    with start_fleet(tmp_path, monkeypatch, store_url=url) as fleet:
        yield Forbidding(fleet, forbid, allow, words)


def test_run_continues_after_store_was_read_only(forbidding: Forbidding) -> None:
    """The worker's trouble names the store and the error."""
    fleet = forbidding.fleet
    options = {"delay_s": 0.1, "asked": str(fleet.folder / "asked")}
    fleet.write_profile("recording", engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
    run_id = enqueue_rows(fleet, "recording", make_rows(200), chunk=10)
    fleet.start_workers("recording", chunks_in_flight=2)
    wait_until(lambda: len(list(fleet.store.list_keys(parts_prefix(run_id)))) >= 3, "three parts")

    forbidding.forbid()
    trouble = wait_until(lambda: fleet.status(run_id).workers[0].trouble, "the worker's trouble")
    for output in (trouble, fleet.run_producer("status", run_id)):
        assert f"{fleet.store.url}: 'runs/{run_id}/parts/" in "".join(output.split("\n"))
        assert "the store refuses the operation" in " ".join(output.split())
        assert forbidding.words in " ".join(output.split())
    assert fleet.status(run_id).state == "running"

    forbidding.allow()
    assert fleet.wait_for_end(run_id).samples.ok == 200
    assert_run_is_sound(fleet, run_id)
    asked = Counter((fleet.folder / "asked").read_text().split())
    assert set(asked.values()) == {1}, "the journal must be used"


def test_worker_waits_while_store_is_read_only(forbidding: Forbidding) -> None:
    fleet = forbidding.fleet
    fleet.write_profile("quick")
    run_id = enqueue_rows(fleet, "quick", make_rows(40), chunk=10)
    forbidding.forbid()
    fleet.start_workers("quick", max_restarts=0)

    def find_trouble() -> str | None:
        return next((worker.trouble for worker in fleet.status(run_id).workers if worker.state == "loading"), None)

    trouble = wait_until(find_trouble, "the worker's trouble")
    assert "the store refuses the operation" in trouble
    assert forbidding.words in trouble
    forbidding.allow()
    assert fleet.wait_for_end(run_id).samples.ok == 40
    assert_run_is_sound(fleet, run_id)


def test_enqueue_into_read_only_store_exits_with_3(forbidding: Forbidding) -> None:
    """The message names the store, and files are not left behind."""
    fleet = forbidding.fleet
    fleet.write_profile("quick")
    spec = fleet.write_spec("quick", [fleet.write_dataset("rows", make_rows(40))])
    assert list(fleet.store.list_keys()) == []
    forbidding.forbid()
    output = fleet.run_producer("enqueue", str(spec), code=3)
    assert f"producer: {fleet.store.url}" in output
    assert "the store refuses the operation" in output
    assert forbidding.words in output
    assert "Traceback" not in output
    forbidding.allow()
    assert list(fleet.store.list_keys()) == []
    assert fleet.ledger.client.dbsize() == 0
    fleet.run_producer("enqueue", str(spec))


def test_read_only_store_supports_status_and_collect(forbidding: Forbidding) -> None:
    fleet = forbidding.fleet
    fleet.write_profile("quick")
    run_id = enqueue_rows(fleet, "quick", make_rows(40), chunk=10)
    run_chunks(fleet, "quick", run_id)
    forbidding.forbid()
    assert "40/40 samples" in fleet.run_producer("status", run_id)
    assert "40 ok" in fleet.run_producer("collect", run_id, "--out", str(fleet.folder / "out"))
    fleet.run_producer("evaluate", run_id)
    fleet.run_producer("resume", run_id, "--rebuild")
    assert_run_is_sound(fleet, run_id)
