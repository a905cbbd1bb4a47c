"""The files that a dataset's path names, and their digest."""

import os
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.spec.dataset_files import derive_name, digest_files, expand_braces, find_files, find_folder, iterate_folder
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


def test_wildcards_are_sorted_within_braces(tmp_path: Path) -> None:
    write_files(tmp_path, {"b/2.tar": "", "b/1.tar": "", "a/3.tar": "", "x[1].tar": ""})
    assert find_files(f"{tmp_path}/{{b,a}}/*.tar") == [f"{tmp_path}/{name}" for name in ("b/1.tar", "b/2.tar", "a/3.tar")]
    assert find_files(f"{tmp_path}/x[1].tar") == [f"{tmp_path}/x[1].tar"]


def test_folder_above_the_pattern_is_found(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1.tar": ""})
    assert find_folder(f"{tmp_path}/a") == find_folder(f"{tmp_path}/a/1.tar") == f"{tmp_path}/a"
    assert find_folder(f"{tmp_path}/*/{{0..2}}.tar") == str(tmp_path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/rows.jsonl", "rows"),
        ("data/photos", "photos"),
        ("data/shard-{000..019}.tar", "shard-000..019"),
        ("data/train-*.tar", "train"),
        ("data/*.tar", "data"),
        ("hf://org/set", "set"),
        ("*", "dataset"),
    ],
)
def test_default_name_of_a_dataset(path: str, name: str) -> None:
    assert derive_name(path) == name
    assert DatasetSource(path=path).name == name


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
    before = digest_files(str(tmp_path))
    os.utime(tmp_path / "a.txt", (1, 1))
    assert digest_files(str(tmp_path)) == before
    write_files(tmp_path, change)
    assert (digest_files(str(tmp_path)) == before) == is_equal


def test_digest_of_shards_covers_content_and_order(tmp_path: Path) -> None:
    write_files(tmp_path, {"0.tar": "x", "1.tar": "y"})
    digests = {digest_files(f"{tmp_path}/{pattern}.tar") for pattern in ("{0..1}", "*", "{0,1}")}
    assert len(digests) == 1
    assert digest_files(f"{tmp_path}/{{1,0}}.tar") not in digests
    write_files(tmp_path, {"1.tar": "z"})
    assert digest_files(f"{tmp_path}/*.tar") not in digests


def test_spec_resolves_folders_patterns_and_hub(tmp_path: Path) -> None:
    write_files(tmp_path / "data", {"photos/a.png": "x", "s-0.tar": "x", "s-1.tar": "y", "q.json": "{}", "a.json": "{}"})
    (tmp_path / "spec.yaml").write_text(
        "model: echo\ndatasets:\n- {path: data/photos}\n- {path: 'data/s-{0..1}.tar'}\n- {path: 'hf://org/set', revision: abc}\n"
        "- {path: data/q.json, annotations: data/a.json, media_root: images}\n"
    )
    (spec,) = read_specs(tmp_path / "spec.yaml")
    photos, shards, hub, vqa = spec.datasets
    assert (photos.path, photos.media_root) == (f"{tmp_path}/data/photos", f"{tmp_path}/data/photos")
    assert (shards.path, shards.media_root) == (f"{tmp_path}/data/s-{{0..1}}.tar", f"{tmp_path}/data")
    assert (hub.path, hub.media_root) == ("hf://org/set", str(tmp_path))
    assert (vqa.annotations, vqa.media_root) == (f"{tmp_path}/data/a.json", f"{tmp_path}/data/images")
    assert len({source.digest for source in spec.datasets}) == 4
    write_files(tmp_path / "data", {"a.json": "[]"})
    assert read_specs(tmp_path / "spec.yaml")[0].datasets[3].digest != vqa.digest


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
