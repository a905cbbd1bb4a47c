"""Media files that rows name by path are identified by content, up to a bound."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.spec.files import read_specs
from common.spec.models import RunSpec
from common.storage.files import digest_content
from producer.datasets import media_files, read_dataset
from producer.datasets.survey import survey_specs

ROWS: dict[str, list[dict[str, Any]]] = {
    "image": [{"question": "a?", "image": "one.png"}],
    "images": [{"question": "a?", "images": ["two.png", "one.png"]}],
    "image_path": [{"question": "a?", "image_path": "one.png"}],
    "video": [{"question": "a?", "video": "one.png"}],
    "mapped": [{"question": "a?", "picture": "one.png"}],
    "with faulty rows": [
        {"question": "a?", "image": 3},
        {"question": "b?", "image": "\0"},
        {"question": "c?", "image": "one.png"},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def resolve(folder: Path, rows: list[dict[str, Any]], **source: Any) -> RunSpec:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if "picture" in rows[0]:
        source["fields"] = {"image": "picture"}
    (folder / "spec.yaml").write_text(json.dumps({"model": "echo", "datasets": [{"path": "rows.jsonl", **source}]}))
    (spec,), _ = survey_specs(read_specs(folder / "spec.yaml"))
    return spec


def read_ids(spec: RunSpec) -> list[str]:
    return [sample.sample_id for sample in read_dataset(spec.datasets[0])]


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("keeps_mtime", [True, False])
def test_changed_file_changes_run_id_and_sample_id(rows: list[dict[str, Any]], keeps_mtime: bool, folder: Path) -> None:
    before = resolve(folder, rows)
    ids = read_ids(before)
    found = (folder / "one.png").stat()
    (folder / "one.png").write_bytes(b"ONE.PNG" if keeps_mtime else b"another picture")
    if keeps_mtime:
        os.utime(folder / "one.png", ns=(found.st_atime_ns, found.st_mtime_ns))
    after = resolve(folder, rows)
    assert after.run_id != before.run_id
    assert read_ids(after)[-1] != ids[-1]
    (folder / "one.png").write_bytes(b"one.png")
    assert resolve(folder, rows).run_id == before.run_id
    assert read_ids(before) == ids


def test_moved_dataset_keeps_its_ids(folder: Path, tmp_path: Path) -> None:
    here = resolve(folder, ROWS["images"])
    ids = read_ids(here)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("one.png", "two.png"):
        (folder / name).rename(elsewhere / name)
    there = resolve(elsewhere, ROWS["images"])
    assert (there.run_id, read_ids(there)) == (here.run_id, ids)


def test_equal_images_of_other_names_are_one_sample(folder: Path) -> None:
    (folder / "two.png").write_bytes(b"one.png")
    first, second = read_ids(resolve(folder, [{"question": "a?", "image": "one.png"}, {"question": "a?", "image": "two.png"}]))
    assert first == second


@pytest.mark.parametrize("bound", ["MOST_FILES", "MOST_BYTES"])
def test_files_above_the_bound_are_logged(bound: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_files, bound, 1)
    with capture_logs() as lines:
        spec = resolve(folder, ROWS["images"])
    assert [(line["event"], line["dataset"]) for line in lines] == [("media.named_by_path", "rows")]
    assert spec.datasets[0].media_digest is None
    assert all(media.digest is None for sample in read_dataset(spec.datasets[0]) for media in sample.media)
    (folder / "one.png").write_bytes(b"another picture")
    assert resolve(folder, ROWS["images"]).run_id == spec.run_id  # size and time do not change the id
    assert resolve(folder, ROWS["images"], digest_media="always").run_id != spec.run_id


def test_missing_files_are_logged(folder: Path) -> None:
    (folder / "two.png").unlink()
    with capture_logs() as lines:
        spec = resolve(folder, ROWS["images"])
    assert [(line["event"], line.get("files", line.get("rows"))) for line in lines] == [
        ("media.named_by_path", 1),
        ("dataset.media_missing", 1),
    ]
    (sample,) = read_dataset(spec.datasets[0])
    assert [media.digest is None for media in sample.media] == [True, False]


@pytest.mark.parametrize(
    "rows",
    [
        [{"question": "a?"}],
        [{"question": "a?", "image": "data:image/png;base64,aaaa"}],
        [{"question": "a?", "image": "https://a/b.png"}],
    ],
)
def test_dataset_without_files_keeps_its_id(rows: list[dict[str, Any]], folder: Path) -> None:
    with capture_logs() as lines:
        spec = resolve(folder, rows)
    assert not lines
    assert spec.run_id == resolve(folder, rows, digest_media="never").run_id


def test_digest_media_never_disables_digests(folder: Path) -> None:
    with capture_logs() as lines:
        spec = resolve(folder, ROWS["image"], digest_media="never")
    assert not lines
    assert spec.datasets[0].media_digest is None


def test_file_url_is_identified_by_content(folder: Path) -> None:
    rows = [{"question": "a?", "image": f"file://{folder}/one.png"}]
    before = resolve(folder, rows)
    (folder / "one.png").write_bytes(b"another picture")
    assert resolve(folder, rows).run_id != before.run_id


@pytest.mark.parametrize("address", ["file://[", "file://host/one.png", "file://"])
def test_unusable_file_url_has_no_media_digest(address: str, folder: Path) -> None:
    assert resolve(folder, [{"question": "a?", "image": address}]).datasets[0].media_digest is None


def test_named_pipe_is_not_read(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    assert resolve(folder, [{"question": "a?", "image": "pipe.png"}]).datasets[0].media_digest is None


@pytest.mark.parametrize("changed", ["a", "b"])
def test_equal_paths_of_several_folders_are_several_files(changed: str, folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "one.png").write_bytes(name.encode())
        (folder / name / "rows.jsonl").write_text(json.dumps({"question": "q?", "image": "one.png"}) + "\n")
    (folder / "spec.yaml").write_text(json.dumps({"model": "echo", "datasets": [{"path": "[ab]/rows.jsonl", "name": "set"}]}))
    (before,), _ = survey_specs(read_specs(folder / "spec.yaml"))
    (folder / changed / "one.png").write_bytes(b"other")
    (after,), _ = survey_specs(read_specs(folder / "spec.yaml"))
    assert before.run_id != after.run_id


def test_enqueue_reads_each_file_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def record_read(path: str) -> str:
        read.append(Path(path))
        return digest_content(path)

    monkeypatch.setattr(media_files, "digest_content", record_read)
    for rows in ROWS["image"], ROWS["images"], ROWS["image"]:
        read.clear()
        read_ids(resolve(folder, rows))
        assert sorted(path.name for path in read) == sorted(str(row) for row in rows[0].get("images", [rows[0].get("image")]))


def test_digests_of_earlier_enqueues_are_forgotten(folder: Path) -> None:
    resolve(folder, ROWS["images"])
    read_ids(resolve(folder, ROWS["image"]))
    assert [Path(path).name for path in media_files._digests] == ["one.png"]  # noqa: SLF001
