"""Numbered media columns, and rows that name media in several columns."""

import base64
import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from common.errors import SampleError
from common.prompts.messages import render_messages
from common.records import Sample
from common.spec.models import DatasetSource
from common.spec.prompts import PromptSpec
from producer.datasets import read_dataset
from producer.datasets.media import embed_bytes
from producer.datasets.survey import survey_dataset
from producer.datasets.values.media_columns import number_media, order_numbered

CONTENTS = {"a.png": b"\x89PNG\r\n\x1a\n\0a" + bytes(60), "b.png": b"\x89PNG\r\n\x1a\n\0b" + bytes(60)}
CONTENTS["same.png"] = CONTENTS["a.png"]
A_TEXT = base64.b64encode(CONTENTS["a.png"]).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def read_one(path: Path, **source: Any) -> Sample:
    """Survey and read a dataset of one row. The survey does not report the row's used columns."""
    survey = survey_dataset(DatasetSource(path=str(path), **source))
    (sample,) = read_dataset(survey.source)
    return sample


def read_row(folder: Path, row: dict[str, Any], **source: Any) -> Sample:
    (folder / "set.jsonl").write_text(json.dumps({"question": "Q?"} | row))
    return read_one(folder / "set.jsonl", **source)


def show(sample: Sample) -> list[str]:
    """Return the names of the images that a sample has, or its fault."""
    assert sample.fault is None, sample.fault.message
    return [Path(media.uri).name if media.uri else "embedded" for media in sample.media]


NUMBERED_ROWS: list[tuple[dict[str, Any], list[str]]] = [
    ({"image_2": "b.png", "image_1": "a.png"}, ["a.png", "b.png"]),
    ({"image_10": "b.png", "image_9": "a.png"}, ["a.png", "b.png"]),
    ({"image2": "b.png", "image1": "a.png"}, ["a.png", "b.png"]),
    ({"image 2": "b.png", "image 1": "a.png"}, ["a.png", "b.png"]),
    ({"image-02": "b.png", "image_1": "a.png"}, ["a.png", "b.png"]),
    ({"image_3": None, "image_2": "", "image_1": "a.png"}, ["a.png"]),
    ({"image": None, "image_1": "a.png"}, ["a.png"]),
    ({"image": ["a.png", "b.png"], "image_2": "b.png", "image_1": "a.png"}, ["a.png", "b.png"]),
]


@pytest.mark.parametrize(("row", "names"), NUMBERED_ROWS)
def test_numbered_columns_are_ordered_by_number(folder: Path, row: dict[str, Any], names: list[str]) -> None:
    sample = read_row(folder, row)
    assert show(sample) == names
    assert not any(name.startswith("image_") for name in sample.metadata)
    if "image_9" not in row:
        assert all(media.number is None for media in sample.media), "without gaps, the position is the number"


def test_numbered_videos_are_read_apart(folder: Path) -> None:
    sample = read_row(folder, {"video_2": "d.mp4", "image_1": "a.png", "video_1": "c.mp4"}, digest_media="never")
    assert [media.kind for media in sample.media] == ["image", "video", "video"]
    assert show(sample) == ["a.png", "c.mp4", "d.mp4"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet", "indexed tsv"])
def test_numbered_columns_have_one_order_in_every_format(folder: Path, ending: str) -> None:
    names = ["index", "question", "image_2", "image_1"] if ending == "indexed tsv" else ["question", "image_2", "image_1"]
    row = dict(zip(names[-3:], ["<image 2>?", "b.png", "a.png"], strict=True)) | ({"index": "7"} if "index" in names else {})
    path = folder / f"set.{ending.split()[-1]}"
    if ending == "parquet":
        parquet.write_table(pa.Table.from_pylist([row]), path)
    elif ending in ("jsonl", "json"):
        path.write_text(json.dumps(row if ending == "jsonl" else [row]))
    else:
        delimiter = "," if ending == "csv" else "\t"
        path.write_text("\n".join(delimiter.join(cells) for cells in (names, [row[name] for name in names])) + "\n")
    sample = read_one(path)
    assert show(sample) == ["a.png", "b.png"]
    content = render_messages(sample, PromptSpec()).messages[0].content
    assert content[:2] == (0, 1)  # image 1 has no marker, so it comes first


GAPS: list[tuple[dict[str, Any], str, tuple[str | int, ...]]] = [
    ({"image_3": "b.png", "image_1": "a.png"}, "<image 3> or <image 1>?", (1, " or ", 0, "?")),
    ({"image_3": "b.png", "image_1": "a.png"}, "<image> or <image>?", (0, " or ", 1, "?")),
    ({"image_2": "b.png", "image_1": None}, "<image 2>?", (0, "?")),
    ({"image_0": "a.png", "image_1": "b.png"}, "<image 1> or <image 0>?", (1, " or ", 0, "?")),
    ({"image_3": "b.png", "image_1": "a.png", "image_4": "a.png"}, "<image 4>?", (0, 1, 2, "?")),
]


@pytest.mark.parametrize(("row", "question", "content"), GAPS)
def test_marker_names_the_column_with_its_number(
    folder: Path, row: dict[str, Any], question: str, content: tuple[str | int, ...]
) -> None:
    sample = read_row(folder, row | {"question": question})
    assert render_messages(sample, PromptSpec(template="question_only")).messages[0].content == content
    conversation = read_row(folder, row | {"question": None, "messages": [{"role": "user", "content": question}]})
    assert render_messages(conversation, PromptSpec()).messages[0].content == content
    assert sample.sample_id != read_row(folder, {"image": ["a.png", "b.png"], "question": question}).sample_id


def test_marker_of_a_missing_number_is_a_fault(folder: Path) -> None:
    sample = read_row(folder, {"image_3": "b.png", "image_1": "a.png", "question": "<image 2>?"})
    with pytest.raises(SampleError, match="<image 2> names a missing image, but the row has 2 images with the numbers 1, 3;"):
        render_messages(sample, PromptSpec())


@given(numbers=st.lists(st.integers(0, 20), min_size=1, max_size=5, unique=True))
def test_any_order_of_columns_gives_the_same_media(numbers: list[int]) -> None:
    columns = {f"image_{number}": [embed_bytes(bytes([number + 1]), "image")] for number in numbers}
    expected = number_media(columns)
    for order in permutations(columns):
        assert number_media({name: columns[name] for name in order}) == expected
        assert order_numbered(order) == [f"image_{number}" for number in sorted(numbers)]
    kept = [media.number for media, _ in expected]
    assert kept == (sorted(numbers) if sorted(numbers) != list(range(1, len(numbers) + 1)) else [None] * len(numbers))


def test_mapped_or_ignored_numbered_columns_are_not_joined(folder: Path) -> None:
    row = {"image_2": "b.png", "image_1": "a.png"}
    assert show(read_row(folder, row, fields={"image": "image_2"})) == ["b.png"]
    assert show(read_row(folder, row, ignore=["image_2"])) == ["a.png"]


AGREEING: list[tuple[dict[str, Any], list[str]]] = [
    ({"image": "a.png", "images": "a.png"}, ["a.png"]),
    ({"image": "a.png", "images": ["a.png"]}, ["a.png"]),
    ({"image": "a.png", "images": ["same.png"]}, ["a.png"]),
    ({"image": "a.png", "image_path": "same.png"}, ["a.png"]),
    ({"image": "a.png", "image_path": "elsewhere/a.png"}, ["a.png"]),
    ({"image": A_TEXT, "image_path": "b.png"}, ["embedded"]),
    ({"image": "name.png", "images": [A_TEXT]}, ["embedded"]),
    ({"image": A_TEXT, "images": [f"data:image/png;base64,{A_TEXT}"]}, ["embedded"]),
    ({"image": "", "images": [], "image_path": "b.png"}, ["b.png"]),
]


@pytest.mark.parametrize(("row", "names"), AGREEING)
def test_same_media_in_two_columns_are_one(folder: Path, row: dict[str, Any], names: list[str]) -> None:
    assert show(read_row(folder, row)) == names


DISAGREEING: list[tuple[dict[str, Any], str]] = [
    (
        {"image": "a.png", "images": ["a.png", "b.png"]},
        "field 'images': names 2 images, and column 'image' names 1 image; expected",
    ),
    (
        {"image": ["a.png", "b.png"], "images": "a.png"},
        "field 'images': names 1 image, and column 'image' names 2 images; expected",
    ),
    ({"image": "a.png", "images": "b.png"}, "field 'images': names another image, and column 'image' names 1 image; expected"),
    ({"image": "a.png", "images": "gone.png"}, "field 'images': names another image"),
    ({"image": "a.png", "image_path": "b.png"}, "field 'image_path': names another image"),
    ({"image": A_TEXT, "image_path": ["a.png", "b.png"]}, "field 'image_path': names 2 images"),
    ({"image": ["a.png", "b.png"], "images": ["b.png", "a.png"]}, "field 'images': names other images, and column 'image' names 2"),
    ({"video": "a.mp4", "videos": "b.mp4"}, "field 'videos': names another video, and column 'video' names 1 video"),
    ({"image": "a.png", "image_1": "a.png", "image_2": "b.png"}, "names 2 images, and column 'image' names 1 image"),
    (
        {"image_1": "a.png", "image 1": "b.png"},
        "has the same number as column 'image_1'; expected one column for each number; leave",
    ),
]


@pytest.mark.parametrize(("row", "message"), DISAGREEING)
def test_different_media_in_two_columns_are_a_fault(folder: Path, row: dict[str, Any], message: str) -> None:
    fault = read_row(folder, row, digest_media="auto" if "video" not in row else "never").fault
    assert fault is not None
    assert fault.code == "bad_field"
    assert message in fault.message
    remedy = {"ignore": [list(row)[-1]]}
    assert remedy["ignore"][0] in fault.message
    if len(row) == 2:
        assert read_row(folder, row, digest_media="never", **remedy).fault is None


def test_mapped_column_is_used_alone(folder: Path) -> None:
    row = {"image": "a.png", "images": ["a.png", "b.png"], "image_path": "b.png"}
    assert show(read_row(folder, row, fields={"image": "images"})) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "row",
    [
        {"image_1": "a.png", "image_3": ["b.png", "c.png"]},
        {"image_1": ["a.png", "b.png"], "image_2": "c.png"},
        {"image_2": ["a.png"], "image_1": ["a.png", "b.png"]},
        {"image_2": ["a.png", "b.png"]},
    ],
)
def test_numbered_column_with_several_media_is_a_fault(folder: Path, row: dict[str, Any]) -> None:
    sample = read_row(folder, row)
    assert sample.fault is not None
    assert "has 2 media, so the numbers of the media are unclear" in sample.fault.message


@pytest.mark.parametrize("empty", ["[]", " []", []])
def test_empty_list_names_no_media(folder: Path, empty: Any) -> None:
    sample = read_row(folder, {"images": empty})
    assert (sample.fault, sample.media) == (None, ())
