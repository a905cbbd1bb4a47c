"""Captions are free text: no wording for short answers is added to their prompt."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.records import Kind
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from producer.datasets.survey import survey_dataset
from tests.support.media.pictures import make_png, write_files

PNG = make_png()


def write_coco(folder: Path, captions: list[str]) -> Path:
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(len(captions))]
    annotations = [{"id": number, "image_id": number, "caption": caption} for number, caption in enumerate(captions)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder / "captions.json"


def write_folder(folder: Path, captions: list[str]) -> Path:
    for number, caption in enumerate(captions):
        write_files(folder / "set", {f"{number}.png": PNG, f"{number}.txt": caption})
    return folder / "set"


def write_shard(folder: Path, captions: list[str], ending: str = "txt") -> Path:
    with tarfile.open(folder / "set.tar", "w") as tar:
        for number, caption in enumerate(captions):
            for name, content in ((f"{number}.png", PNG), (f"{number}.{ending}", caption.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder / "set.tar"


WRITERS = {"coco": write_coco, "image_folder": write_folder, "webdataset": write_shard}


def read_kinds(path: Path, format_name: str, **options: Any) -> tuple[Kind | None, list[Kind]]:
    """Return the kind that the survey finds, and the kinds of the samples without a survey."""
    options = {"format": format_name, "question": "Describe.", **options}
    source = DatasetSource.model_validate({"path": str(path), **options})
    surveyed = survey_dataset(source).source
    with_survey, without = ([sample.kind for sample in read_dataset(one)] for one in (surveyed, source))
    assert with_survey == without
    return surveyed.found_kind, without


@pytest.mark.parametrize("format_name", WRITERS)
@pytest.mark.parametrize("captions", [["A red square.", "A dog."], ["7", "12"], ["", "A dog."]])
def test_captions_are_free_text(tmp_path: Path, format_name: str, captions: list[str]) -> None:
    write: Callable[[Path, list[str]], Path] = WRITERS[format_name]
    assert read_kinds(write(tmp_path, captions), format_name) == ("free_text", ["free_text"] * 2)


@pytest.mark.parametrize("format_name", WRITERS)
def test_kind_of_a_dataset_precedes_captions(tmp_path: Path, format_name: str) -> None:
    path = WRITERS[format_name](tmp_path, ["red", "blue"])
    assert read_kinds(path, format_name, kind="short_text")[1] == ["short_text"] * 2


def test_mapped_caption_is_free_text(tmp_path: Path) -> None:
    path = write_folder(tmp_path, ["A red square.", "A dog."])
    assert read_kinds(path, "image_folder", fields={"target": "caption"})[0] == "free_text"


def test_classes_of_a_shard_are_no_captions(tmp_path: Path) -> None:
    assert read_kinds(write_shard(tmp_path, ["7", "12"], "cls"), "webdataset")[0] == "number"


def test_target_beside_a_caption_is_no_caption(tmp_path: Path) -> None:
    path = write_folder(tmp_path, ["A red square.", "A dog."])
    write_files(path, {"0.json": '{"target": "red"}', "1.json": '{"target": "brown"}'})
    assert read_kinds(path, "image_folder") == ("short_text", ["short_text"] * 2)


@pytest.mark.parametrize("described", ["0.json", "1.json"])
def test_captions_beside_answers_are_no_free_text(tmp_path: Path, described: str) -> None:
    """The order of the rows does not matter."""
    path = write_folder(tmp_path, ["A red square.", "A dog."])
    write_files(path, {described: '{"target": "red"}'})
    source = DatasetSource(path=str(path), question="Describe.")
    assert survey_dataset(source).source.found_kind == "short_text"


def test_format_gives_the_kind_of_rows_without_answers(tmp_path: Path) -> None:
    (tmp_path / "set.tsv").write_text("index\tquestion\n1\tWhat?\n")
    assert read_kinds(tmp_path / "set.tsv", "vlmeval_tsv") == ("short_text", ["short_text"])
