"""The disk of the store, results or scratch files is full: data is not lost, and work continues when space is available."""

from collections import Counter
from pathlib import Path

import pytest

from common.spec.files import read_specs
from common.storage.keys import index_key, parts_prefix, run_key, samples_key
from tests.support.faults.small_disk import SmallDisk, small_disk
from tests.support.fleet import Fleet, make_rows, start_fleet
from tests.support.planning import run_chunks
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["small_disk"]  # a fixture

BLOCK_BYTES = 4096
REFUSED = "the store is full; make room"


def count_blocks(content: bytes) -> int:
    return -(-len(content) // BLOCK_BYTES)


def test_run_continues_after_store_was_full(small_disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When space is available, the run continues without a command. Each sample is sent once."""
    with start_fleet(tmp_path, monkeypatch, store_url=f"file://{small_disk.folder}/store") as fleet:
        options = {"delay_s": 0.1, "asked": str(tmp_path / "asked")}
        fleet.write_profile("recording", engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
        run_id = enqueue_rows(fleet, "recording", make_rows(200), chunk=10)
        fleet.start_workers("recording", chunks_in_flight=2)
        wait_until(lambda: len(list(fleet.store.list_keys(parts_prefix(run_id)))) >= 3, "three parts")

        small_disk.fill()
        wait_until(lambda: fleet.read_log().count(REFUSED) >= 3, "a chunk that failed several times")
        assert fleet.status(run_id).state == "running"
        small_disk.make_room()

        assert fleet.wait_for_end(run_id).samples.ok == 200
        assert_run_is_sound(fleet, run_id)
        asked = Counter((tmp_path / "asked").read_text().split())
        assert set(asked.values()) == {1}, "the journal must be used"
        assert fleet.read_log().count("worker.started") == 1


@pytest.mark.parametrize("fits", ["nothing", "samples", "samples and index"])
def test_enqueue_on_full_disk_succeeds_when_repeated(
    small_disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: str
) -> None:
    with start_fleet(tmp_path, monkeypatch) as fleet:
        fleet.write_profile("quick")
        spec = fleet.write_spec("quick", [fleet.write_dataset("rows", make_rows(300))], chunks={"max_samples": 10})
        written = {"nothing": [], "samples": [samples_key], "samples and index": [samples_key, index_key]}[fits]
        run_id = fleet.enqueue(spec).run_id  # into another store, to measure the size of the plan
        blocks = sum(count_blocks(fleet.store.get(key(run_id))) for key in written)
        fleet.ledger.client.flushall()

    (tmp_path / "small").mkdir()
    with start_fleet(tmp_path / "small", monkeypatch, store_url=f"file://{small_disk.folder}/store") as fleet:
        fleet.write_profile("quick")
        # The probe of the store is written first and takes two blocks.
        small_disk.fill(leave_bytes=max(blocks, 2) * BLOCK_BYTES)
        output = fleet.run_producer("enqueue", str(spec), code=3)
        assert REFUSED in output
        assert run_id in output, "the message must name the object"
        assert not fleet.store.exists(run_key(run_id))
        assert fleet.ledger.view_run(run_id) is None

        small_disk.make_room()
        assert "(planned before)" not in fleet.run_producer("enqueue", str(spec))
        run_chunks(fleet, "quick", run_id)
        assert len(assert_run_is_sound(fleet, run_id)) == 300


def test_enqueue_reports_full_scratch_disk(small_disk: SmallDisk, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.write_profile("quick")
    spec = fleet.write_spec("quick", [fleet.write_dataset("rows", make_rows(300))])
    [asked] = read_specs(spec)
    small_disk.fill(leave_bytes=2 * BLOCK_BYTES)
    monkeypatch.setenv("TMPDIR", str(small_disk.folder))
    output = fleet.run_producer("enqueue", str(spec), code=2)
    assert "No space left on device" in output
    assert "TMPDIR" in output
    assert "Traceback" not in output
    assert not fleet.store.exists(run_key(asked.run_id))
    assert [path.name for path in small_disk.folder.iterdir()] == ["filler"]
    small_disk.make_room()
    fleet.run_producer("enqueue", str(spec))


@pytest.mark.parametrize("free_blocks", [0, 3], ids=["no block fits", "the first blocks fit"])
def test_failed_collect_on_full_disk_keeps_older_results(small_disk: SmallDisk, fleet: Fleet, free_blocks: int) -> None:
    fleet.write_profile("quick")
    run_id = enqueue_rows(fleet, "quick", make_rows(300), chunk=50)
    out = small_disk.folder / "out"
    run_chunks(fleet, "quick", run_id, range(2))
    fleet.run_producer("collect", run_id, "--out", str(out), code=1)
    older = {path.name: path.read_bytes() for path in out.iterdir()}
    run_chunks(fleet, "quick", run_id)

    small_disk.fill(leave_bytes=free_blocks * BLOCK_BYTES)
    output = fleet.run_producer("collect", run_id, "--out", str(out), code=2)
    assert f"results cannot be written to {out}" in output
    assert "No space left on device" in output
    assert {path.name: path.read_bytes() for path in out.iterdir()} == older

    small_disk.make_room()
    assert "300 ok" in fleet.run_producer("collect", run_id, "--out", str(out))
    assert sorted(path.name for path in out.iterdir()) == ["results.jsonl", "results.parquet"]
    assert_run_is_sound(fleet, run_id)
