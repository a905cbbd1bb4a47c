"""The files of a dataset: globs, folders and lists, and the digest of their order and content."""

from pathlib import Path

import pytest

from common.digests import digest_file
from common.errors import ConfigError
from common.spec.dataset_paths import resolve_dataset, strip_compression
from common.spec.models import DatasetSource, name_dataset
from tests.support.planning import make_spec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(["b.jsonl", "a.jsonl", "c.JSONL.gz", "_SUCCESS", ".hidden.csv", "README.md"]):
        (tmp_path / "shards" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "shards" / name).write_text(f"{number}\n")
    (tmp_path / "shards" / "deep" / "a.jsonl").write_text("deep\n")
    return tmp_path


def resolve(folder: Path, path: str | list[str], **more: object) -> DatasetSource:
    return resolve_dataset(DatasetSource.model_validate({"path": path, "name": "set", **more}), folder / "spec.yaml", 0)


def list_names(source: DatasetSource, folder: Path) -> list[str]:
    return [str(Path(path).relative_to(folder / "shards")) for path in source.files]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("shards", ["a.jsonl", "b.jsonl", "c.JSONL.gz"]),
        ("shards/?.jsonl", ["a.jsonl", "b.jsonl"]),
        ("shards/**/*.jsonl", ["a.jsonl", "b.jsonl", "deep/a.jsonl"]),
        (["shards/b.jsonl", "shards/a.jsonl"], ["a.jsonl", "b.jsonl"]),
        (["shards/deep", "shards/[ab].jsonl", "shards/a.jsonl"], ["a.jsonl", "b.jsonl", "deep/a.jsonl"]),
    ],
)
def test_paths_name_files_in_sorted_order(folder: Path, path: str | list[str], names: list[str]) -> None:
    source = resolve(folder, path)
    assert list_names(source, folder) == names
    assert source.all_files == source.files
    assert source.path == str(folder / "shards")


def test_one_match_equals_the_file_itself(folder: Path) -> None:
    source = resolve(folder, "shards/a.jsonl")
    assert resolve(folder, "shards/a*.jsonl") == resolve(folder, ["shards/a.jsonl"]) == source
    assert source.digest == digest_file(folder / "shards" / "a.jsonl")
    assert source.all_files == (source.path,)


def test_literal_brackets_name_a_file(folder: Path) -> None:
    (folder / "a[1].jsonl").write_text("{}")
    assert resolve(folder, "a[1].jsonl").path == str(folder / "a[1].jsonl")


def test_digest_covers_content_and_order(folder: Path) -> None:
    first = resolve(folder, "shards")
    (folder / "shards").rename(folder / "moved")
    assert resolve(folder, "moved").digest == first.digest
    (folder / "moved" / "a.jsonl").rename(folder / "moved" / "z.jsonl")
    reordered = resolve(folder, "moved").digest
    (folder / "moved" / "z.jsonl").write_text("other")
    assert len({first.digest, reordered, resolve(folder, "moved").digest}) == 3


def test_media_root_is_the_common_folder(folder: Path) -> None:
    assert resolve(folder, "shards").media_root == str(folder / "shards")
    assert resolve(folder, "shards", media_root="images").media_root == str(folder / "shards" / "images")
    assert resolve(folder, "shards/**/a.jsonl").media_root is None
    assert resolve(folder, "shards/**/a.jsonl", media_root=".").media_root == str(folder / "shards")


def test_folder_of_several_kinds_is_refused(folder: Path) -> None:
    (folder / "shards" / "x.csv").write_text("a,b\n")
    with pytest.raises(ConfigError, match=r"several kinds \(\.csv, \.jsonl\); .* with a glob, for example shards/\*\.csv"):
        resolve(folder, "shards")


@pytest.mark.parametrize("more", [{"format": "image_folder"}, {}])
def test_folder_of_other_files_is_kept_whole(folder: Path, more: dict[str, str]) -> None:
    (folder / "pictures" / "cats").mkdir(parents=True)
    (folder / "pictures" / "cats" / "a.png").write_bytes(b"1")
    (folder / "pictures" / "note.txt").write_bytes(b"1")
    source = resolve(folder, "pictures", **more)
    assert (source.path, source.files, source.media_root) == (str(folder / "pictures"), (), str(folder / "pictures"))
    (folder / "pictures" / "cats" / "a.png").write_bytes(b"2")  # media count by their own digest
    assert resolve(folder, "pictures", **more).digest == source.digest
    (folder / "pictures" / "note.txt").write_bytes(b"2")
    assert resolve(folder, "pictures", **more).digest != source.digest


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/rows.jsonl", "rows"),
        ("a/rows.v2.csv.GZ", "rows.v2"),
        ("a/rows.parquet.zst", "rows"),
        ("train/part-*.csv", "train"),
        ("train/**/*.csv", "train"),
        ("train", "train"),
    ],
)
def test_default_name_comes_from_the_path(path: str, name: str) -> None:
    assert name_dataset(path) == name


def test_compression_ending_is_stripped() -> None:
    assert [strip_compression(name) for name in ("A.CSV.gz", "a.zst", "a.zstd", "a.csv")] == ["a.csv", "a", "a", "a.csv"]


@pytest.mark.parametrize("more", [{"files": ("a", "b")}, {"readers": 4}, {"path": "x", "media_root": "y"}])
def test_place_and_readers_do_not_change_run_id(more: dict[str, object]) -> None:
    spec, source = make_spec(), DatasetSource(path="a", name="a", digest="1")
    one, other = (spec.model_copy(update={"datasets": (given,)}) for given in (source, source.model_copy(update=more)))
    assert one.run_id == other.run_id


@pytest.mark.parametrize("path", ["shards/{a,x,b}.jsonl", "shards/{a,x}*.jsonl", "shards/{x,a}.jsonl"])
def test_missing_file_of_braces_is_named(folder: Path, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(folder, path)
    assert f"looked at {folder}/shards/x" in str(caught.value)
    assert "; expected this file too, because other files that the braces name exist" in str(caught.value)
