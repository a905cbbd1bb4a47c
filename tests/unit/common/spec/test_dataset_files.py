"""The files that a dataset's path names, and their digest."""

import os
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.spec.dataset_files import digest_folder, expand_braces, find_matches, iterate_folder
from common.spec.dataset_paths import resolve_dataset
from common.spec.files import read_specs
from common.spec.models import Chunks, DatasetSource, ModelProfile, RunSpec, SamplingParams, Shuffle, Validation
from tests.support.media.pictures import write_files


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("a.tar", ["a.tar"]),
        ("s-{0..2}.tar", ["s-0.tar", "s-1.tar", "s-2.tar"]),
        ("s-{008..010}.tar", ["s-008.tar", "s-009.tar", "s-010.tar"]),
        ("s-{2..0}", ["s-2", "s-1", "s-0"]),
        ("{a,b}-{0..1}", ["a-0", "a-1", "b-0", "b-1"]),
        ("{a,}x", ["ax", "x"]),
        ("{a}", ["{a}"]),
        ("{}", ["{}"]),
        ("{a", ["{a"]),
    ],
)
def test_braces_expand_like_bash(pattern: str, texts: list[str]) -> None:
    assert expand_braces(pattern) == texts


@pytest.mark.parametrize("pattern", ["{0..100000}", "{0..999}{0..999}", "{99999999999999999999..0}"])
def test_too_many_files_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="names more than 100,000 files; expected a smaller range"):
        expand_braces(pattern)


def test_pattern_names_files(tmp_path: Path) -> None:
    write_files(tmp_path, {"b/2.tar": "", "b/1.tar": "", "a/3.tar": "", "c/x": ""})
    assert sorted(find_matches(f"{tmp_path}/{{b,a}}/*.tar")) == [f"{tmp_path}/{name}" for name in ("a/3.tar", "b/1.tar", "b/2.tar")]
    with pytest.raises(FileNotFoundError, match=r"c/\*\.tar"):
        find_matches(f"{tmp_path}/{{a,c}}/*.tar")


def test_stars_name_each_folder_once(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1.tar": "", "2.tar": "", "a/[x]/deep/3.tar": "", ".git/4.tar": "", "c/2.tar": "", "c/x": ""})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    (tmp_path / "B").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to("self")

    def find(pattern: str) -> list[str]:
        return sorted(path.removeprefix(f"{tmp_path}/") for path in find_matches(f"{tmp_path}/{pattern}"))

    assert find("**/*.tar") == ["2.tar", "a/1.tar", "a/[x]/deep/3.tar", "c/2.tar"]
    assert find("a/**/*.tar") == ["a/1.tar", "a/[x]/deep/3.tar", "a/up/2.tar", "a/up/c/2.tar"]
    assert find("**/deep/**/3.tar") == ["a/[x]/deep/3.tar"]
    assert find("c/**") == ["c/2.tar", "c/x"]
    assert find("**.tar") == ["2.tar"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link").symlink_to(tmp_path / "c")
    assert find("other/**/*.tar") == ["other/link/2.tar"]


def test_folder_is_listed_in_order_without_hidden_files(tmp_path: Path) -> None:
    write_files(tmp_path, {"b.png": "", "a/z.png": "", "a.png": "", ".git/x": "", "a/.x": ""})
    (tmp_path / "loop").symlink_to(tmp_path)
    assert list(iterate_folder(str(tmp_path))) == ["a/z.png", "a.png", "b.png", "loop"]


@pytest.mark.parametrize(
    ("change", "is_equal"),
    [
        ({"a.txt": "other"}, False),
        ({"new.png": "x"}, False),
        ({"a.png": "other"}, True),  # its content counts in media_digest
        ({".hidden": "x"}, True),
    ],
)
def test_digest_of_a_folder_covers_names_and_texts(tmp_path: Path, change: dict[str, str], is_equal: bool) -> None:
    write_files(tmp_path, {"a.png": "x", "a.txt": "y"})
    before = digest_folder(str(tmp_path))
    os.utime(tmp_path / "a.txt", (1, 1))
    assert digest_folder(str(tmp_path)) == before
    write_files(tmp_path, change)
    assert (digest_folder(str(tmp_path)) == before) == is_equal


def test_spec_resolves_folders_patterns_and_hub(tmp_path: Path) -> None:
    write_files(tmp_path / "data", {"photos/a.png": "x", "s-0.tar": "x", "s-1.tar": "y", "q.json": "{}", "a.json": "{}"})
    (tmp_path / "spec.yaml").write_text(
        "model: echo\ndatasets:\n- {path: data/photos}\n- {path: 'data/s-{0..1}.tar'}\n- {path: 'hf://org/set', revision: abc}\n"
        "- {path: data/q.json, annotations: data/a.json, media_root: images}\n"
    )
    (spec,) = read_specs(tmp_path / "spec.yaml")
    photos, shards, hub, vqa = spec.datasets
    assert (photos.path, photos.media_root) == (f"{tmp_path}/data/photos", f"{tmp_path}/data/photos")
    assert (shards.path, shards.media_root, shards.name) == (f"{tmp_path}/data", f"{tmp_path}/data", "data")
    assert shards.files == (f"{tmp_path}/data/s-0.tar", f"{tmp_path}/data/s-1.tar")
    assert (hub.path, hub.media_root) == ("hf://org/set", str(tmp_path))
    assert (vqa.annotations, vqa.media_root) == (f"{tmp_path}/data/a.json", f"{tmp_path}/data/images")
    assert len({source.digest for source in spec.datasets}) == 4
    write_files(tmp_path / "data", {"a.json": "[]"})
    assert read_specs(tmp_path / "spec.yaml")[0].datasets[3].digest != vqa.digest


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        ({"a.jpg": "", "a.json": ""}, True),
        ({"metadata.jsonl": "", "images/a.jpg": ""}, True),
        ({"a.jpg": "", "metadata.csv": ""}, True),
        ({"state.json": "", "dataset_info.json": "", "data-00000-of-00001.arrow": ""}, True),
        ({"dataset_dict.json": "", "train/state.json": ""}, True),
        ({"rows.jsonl": "", "images/a.jpg": ""}, False),
        ({"rows.jsonl": "", "a.jpg": "", "a.json": ""}, False),
        ({"train.json": "", "a.jpg": ""}, False),
    ],
)
def test_folder_of_media_is_read_as_a_whole(tmp_path: Path, files: dict[str, str], whole: bool) -> None:
    folder = write_files(tmp_path / "set", files)
    source = resolve_dataset(DatasetSource(path="set"), tmp_path / "spec.yaml", 0)
    assert (source.path == str(folder)) == whole
    assert source.files == ()


@pytest.mark.parametrize(
    "options",
    [{"question": "Q?"}, {"table": {"format": "csv"}}, {"config": "a"}, {"split": "test"}, {"revision": "abc"}],
)
def test_option_of_a_dataset_changes_the_run_id(options: dict[str, object]) -> None:
    def find_run_id(**given: object) -> str:
        return RunSpec(
            model=ModelProfile(name="some", engine="echo"),
            datasets=(DatasetSource.model_validate({"path": "set", "digest": "1", **given}),),
            generation=SamplingParams(),
            validation=Validation(),
            shuffle=Shuffle(),
            chunks=Chunks(),
        ).run_id

    assert find_run_id(**options) != find_run_id()
    assert find_run_id(annotations="/a/b.json") == find_run_id(annotations="/c/b.json") == find_run_id()
