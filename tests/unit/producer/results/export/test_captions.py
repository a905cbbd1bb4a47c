"""The captions export writes one text file for each row that is ``ok``, and counts and lists all other rows."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import ConfigError, IntegrityError, TransientError
from common.records import Attempt, DatasetCounts, Media, Outcome, Sample, Twin
from common.storage.keys import part_key
from common.storage.parts import encode_part
from common.storage.plan_index import ChunkIndex, read_chunk
from common.storage.run_record import load_planned_run
from common.storage.store import Store, open_store
from producer.results.export.captions import write_captions
from producer.results.export.choices import Naming, TextField
from producer.results.export.exported import Exported, describe_export
from producer.results.export.registry import FORMATS, load_writer
from tests.support.planning import make_outcome, make_sample, make_spec, plan_samples

ROOT = "/data/raw"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shape_descriptions"


def make_picture(number: int, name: str = "") -> Sample:
    """Return a sample about an image file."""
    return make_sample(number, media=(Media(uri=f"{ROOT}/{name or f'{number}.png'}"),))


def caption(number: int) -> str:
    return f"shape {number}"


def answer(sample: Sample) -> Outcome:
    number = sample.sample_id.rpartition("-")[2].lstrip("0") or "0"
    return make_outcome(sample).model_copy(update={"prediction": f"shape {number}", "response": f"<think>…</think>shape {number}"})


def plan(store: Store, samples: list[Sample]) -> ChunkIndex:
    return plan_samples(store, samples, make_spec(max_samples=4))[1]


def put_outcomes(store: Store, index: ChunkIndex, **changed: Outcome) -> None:
    """Write the parts of all chunks: ``ok`` outcomes, or the outcome of the sample with that index."""
    for chunk in index:
        outcomes = [changed.get(f"row_{sample.index}", answer(sample)) for sample in read_chunk(store, chunk)]
        store.put(part_key(chunk.run_id, 1, chunk.number), encode_part(chunk.run_id, chunk.number, outcomes))


def export(
    store: Store, index: ChunkIndex, folder: Path, *, field: TextField = TextField.PREDICTION, naming: Naming = Naming.FILE
) -> Exported:
    return write_captions(load_planned_run(store, index.run_id), store, folder, field, naming)


def read_texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_bytes().decode() for path in folder.rglob("*") if path.is_file()}


def test_every_format_has_a_writer() -> None:
    assert all(callable(load_writer(name)) for name in FORMATS)


def test_each_image_has_a_text_file(store: Store, folder: Path) -> None:
    index = plan(store, [make_picture(number) for number in range(10)])
    put_outcomes(store, index)
    exported = export(store, index, folder)
    assert exported == Exported(written=10, statuses={"ok": 10})
    assert exported.is_complete
    assert read_texts(folder) == {f"{number}.png.txt": caption(number) for number in range(10)}


def test_files_hold_exact_text_in_utf8(store: Store, folder: Path) -> None:
    sample = make_picture(1, "图 1.png")
    index = plan(store, [sample])
    text = "  红色圆形\r\nand a cross. "
    put_outcomes(store, index, row_1=answer(sample).model_copy(update={"prediction": text}))
    export(store, index, folder)
    assert (folder / "图 1.png.txt").read_bytes() == text.encode()


@pytest.mark.parametrize(("field", "text"), [(TextField.RESPONSE, "<think>…</think>shape 1"), (TextField.PREDICTION, "shape 1")])
def test_field_selects_the_exported_text(store: Store, folder: Path, field: TextField, text: str) -> None:
    index = plan(store, [make_picture(1)])
    put_outcomes(store, index)
    export(store, index, folder, field=field)
    assert read_texts(folder) == {"1.png.txt": text}


def test_ok_row_without_answer_is_listed(store: Store, folder: Path) -> None:
    index = plan(store, [make_picture(1)])
    put_outcomes(store, index)
    exported = export(store, index, folder, field=TextField.ANSWER)
    assert [(row.status, row.reason) for row in exported.left_out] == [("ok", "no answer")]
    assert not exported.is_complete
    assert not folder.exists()


def test_only_ok_outcomes_become_files(store: Store, folder: Path) -> None:
    samples = [make_picture(number) for number in range(3)]
    index = plan(store, samples)
    long = Attempt(number=1, response="word " * 40, violations=("max_words",))
    invalid = make_outcome(samples[1], "invalid").model_copy(update={"prediction": long.response, "attempts": (long,)})
    failed = make_outcome(samples[2], "failed").model_copy(
        update={"error_code": "out_of_memory", "error_message": "CUDA out of memory", "response": "CUDA out of memory"}
    )
    put_outcomes(store, index, row_1=invalid, row_2=failed)
    exported = export(store, index, folder, field=TextField.RESPONSE)
    assert list(read_texts(folder)) == ["0.png.txt"]
    assert exported.statuses == {"ok": 1, "invalid": 1, "failed": 1}
    found = {row.index: (row.dataset, row.sample_id, row.status, row.reason) for row in exported.left_out}
    assert found == {
        "1": ("rows", "rows-000001", "invalid", "max_words"),
        "2": ("rows", "rows-000002", "failed", "out_of_memory"),
    }
    assert "CUDA" not in exported.model_dump_json()


def test_unprocessed_rows_are_listed(store: Store, folder: Path) -> None:
    exported = export(store, plan(store, [make_picture(number) for number in range(5)]), folder)
    assert (exported.statuses, len(exported.left_out)) == ({"unprocessed": 5}, 5)
    assert not folder.exists()


def test_rerun_leaves_identical_files_alone(store: Store, folder: Path) -> None:
    index = plan(store, [make_picture(number) for number in range(3)])
    put_outcomes(store, index)
    export(store, index, folder)
    before = {path: path.stat() for path in folder.iterdir()}
    (folder / "2.png.txt").write_text("edited")
    (folder / "1.png.txt").unlink()
    exported = export(store, index, folder)
    assert (exported.written, exported.replaced, exported.unchanged) == (1, 1, 1)
    assert read_texts(folder) == {f"{number}.png.txt": caption(number) for number in range(3)}
    same = folder / "0.png.txt"
    assert (same.stat().st_ino, same.stat().st_mtime_ns) == (before[same].st_ino, before[same].st_mtime_ns)


def test_other_files_of_the_folder_stay(store: Store, folder: Path) -> None:
    index = plan(store, [make_picture(1)])
    put_outcomes(store, index)
    folder.mkdir()
    (folder / "other.png.txt").write_text("by hand")
    export(store, index, folder)
    assert read_texts(folder) == {"other.png.txt": "by hand", "1.png.txt": caption(1)}


def test_twins_are_named_like_other_rows(store: Store, folder: Path) -> None:
    picture = make_picture(1)
    copied = picture.media[0].model_copy(update={"uri": f"{Path(picture.media[0].uri or '').parent}/copy.png"})
    twins = (Twin(row=7, index="same file"), Twin(row=9, index="copied file", media=(copied,)))
    index = plan(store, [picture.model_copy(update={"index": "first", "twins": twins})])
    put_outcomes(store, index)
    assert export(store, index, folder).left_out == ()
    assert read_texts(folder) == {f"{name}.txt": caption(1) for name in ("1.png", "copy.png")}
    export(store, index, folder / "ids", naming=Naming.ID)
    assert read_texts(folder / "ids") == {f"{name}.txt": caption(1) for name in ("first", "same file", "copied file")}


def test_twins_with_equal_ids_share_a_file(store: Store, folder: Path) -> None:
    twins = (Twin(row=7, index="1"), Twin(row=8, index="1"))
    index = plan(store, [make_picture(1).model_copy(update={"twins": twins})])
    put_outcomes(store, index)
    exported = export(store, index, folder, naming=Naming.ID)
    assert (exported.written, exported.unchanged, exported.left_out) == (1, 0, ())
    assert exported.statuses == {"ok": 3}
    assert read_texts(folder) == {"1.txt": caption(1)}


def test_duplicates_without_record_are_counted(store: Store, folder: Path) -> None:
    """Plans of earlier versions count duplicates, but do not list them."""
    index = plan(store, [make_picture(1)])
    put_outcomes(store, index)
    run = load_planned_run(store, index.run_id)
    datasets = (DatasetCounts(name="rows", rows=4, unique=1, duplicates=3),)
    earlier = replace(run, plan=run.plan.model_copy(update={"datasets": datasets}))
    exported = write_captions(earlier, store, folder, TextField.PREDICTION, Naming.FILE)
    assert (exported.written, exported.unlisted, exported.is_complete) == (1, 3, False)
    assert "3 duplicate rows have no file" in describe_export(exported, "out")


def test_damaged_part_stops_the_export(store: Store, folder: Path) -> None:
    index = plan(store, [make_picture(number) for number in range(8)])
    put_outcomes(store, index)
    store.put(part_key(index.run_id, 1, 1), b"PAR1 nothing PAR1")
    with pytest.raises(IntegrityError, match=f"part of run {index.run_id}, chunk 1"):
        export(store, index, folder)
    assert not [name for name in read_texts(folder) if not name.endswith(".png.txt")]


# Faults of the folder


def test_unwritable_folder_raises_config_error(store: Store, folder: Path) -> None:
    index = plan(store, [make_picture(1)])
    put_outcomes(store, index)
    folder.write_text("a file")
    with pytest.raises(ConfigError, match=r"shape_descriptions/1\.png\.txt cannot be written \(Not a directory\); check .* --out"):
        export(store, index, folder)


def test_name_of_a_folder_raises_config_error(store: Store, folder: Path) -> None:
    index = plan(store, [make_picture(1)])
    put_outcomes(store, index)
    (folder / "1.png.txt").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"1\.png\.txt cannot be written \(Is a directory\)"):
        export(store, index, folder)


def test_longest_file_name_can_be_written(store: Store, folder: Path) -> None:
    """The name of the unfinished file must not be longer than the name of the file."""
    name = "x" * (255 - len(".png.txt")) + ".png"
    index = plan(store, [make_picture(1, name)])
    put_outcomes(store, index)
    export(store, index, folder)
    assert list(read_texts(folder)) == [f"{name}.txt"]


@pytest.mark.parametrize(("number", "expected"), [(28, ConfigError), (116, TransientError)])  # ENOSPC, ESTALE
def test_failed_write_leaves_no_partial_file(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    def cut(path: Path, content: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(content[:2])
        raise OSError(number, "fault")

    index = plan(store, [make_picture(1)])
    put_outcomes(store, index)
    monkeypatch.setattr(Path, "write_bytes", cut)
    with pytest.raises(expected, match="cannot be written"):
        export(store, index, folder)
    assert list(folder.iterdir()) == []


# Output


def test_description_lists_left_out_rows(store: Store, folder: Path) -> None:
    index = plan(store, [make_picture(number) for number in range(30)])
    lines = describe_export(export(store, index, folder), "out").splitlines()
    assert lines[0] == "out: 0 written, 0 replaced, 0 unchanged, 30 left out"
    assert len(lines) == 22
    assert lines[1].startswith("  left out: rows ")
    assert lines[-1] == "  and 10 more; --json lists all of them"


def test_export_is_json_for_scripts(store: Store, folder: Path) -> None:
    index = plan(store, [make_picture(1)])
    found = json.loads(export(store, index, folder).model_dump_json())
    assert found["left_out"] == [
        {"dataset": "rows", "index": "1", "sample_id": "rows-000001", "status": "unprocessed", "reason": None}
    ]
    assert {key: found[key] for key in ("written", "replaced", "unchanged", "unlisted")} == dict.fromkeys(
        ("written", "replaced", "unchanged", "unlisted"), 0
    )
