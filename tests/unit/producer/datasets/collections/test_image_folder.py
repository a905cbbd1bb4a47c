"""Folders of images and videos: order, captions, metadata files, other files and faults."""

import json
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common.errors import ConfigError
from common.records import Sample
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from tests.support.media.pictures import make_png, write_files

PNG = make_png()


def read(folder: Path, **options: object) -> list[Sample]:
    return list(read_dataset(DatasetSource.model_validate({"path": str(folder), "question": "What?", **options})))


def message_of(sample: Sample) -> str:
    assert sample.fault is not None
    return sample.fault.message


def test_images_are_read_in_sorted_order(tmp_path: Path) -> None:
    write_files(tmp_path, {"b/2.JPG": PNG, "a.png": PNG, "b/1.webp": PNG, "c.png": PNG, ".hidden/x.png": PNG, ".x.png": PNG})
    samples = read(tmp_path)
    assert [sample.index for sample in samples] == ["a.png", "b/1.webp", "b/2.JPG", "c.png"]
    assert [sample.media[0].uri for sample in samples] == [f"{tmp_path}/{sample.index}" for sample in samples]
    assert {(sample.question, sample.kind, sample.target, sample.fault) for sample in samples} == {("What?", "free_text", (), None)}
    assert len({sample.sample_id for sample in samples}) == 4


def test_videos_are_read_from_a_folder(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.mp4": b"x", "b.png": PNG, "c.MKV": b"x"})
    samples = read(tmp_path, format="video_folder")
    assert [(sample.index, sample.media[0].kind) for sample in samples] == [("a.mp4", "video"), ("c.MKV", "video")]


@pytest.mark.parametrize(("name", "kind"), [("a.mp4", "video"), ("a.png", "image")])
def test_first_media_file_determines_the_format(tmp_path: Path, name: str, kind: str) -> None:
    write_files(tmp_path, {name: b"x", "0.txt": "x"})
    assert [sample.media[0].kind for sample in read(tmp_path)] == [kind]


def test_files_beside_an_image_become_fields(tmp_path: Path) -> None:
    fields = {"question": "Which?", "target": "red", "id": 7, "source": "web", "image": "elsewhere.png"}
    write_files(
        tmp_path,
        {
            "a.png": PNG,
            "a.txt": "\ufeffA red square.\n",
            "b.png": PNG,
            "b.json": json.dumps(fields),
            "b.txt": "caption",
            "c.png": PNG,
            "c.txt": " \n",
        },
    )
    first, second, third = read(tmp_path)
    assert (first.target, first.metadata) == (("A red square.",), {"file_name": "a.png"})
    assert (second.question, second.target, second.index) == ("Which?", ("red",), "7")
    assert second.metadata == {"file_name": "b.png", "source": "web", "caption": "caption", "image": "elsewhere.png"}
    assert [medium.uri for medium in second.media] == [f"{tmp_path}/b.png"]
    assert (third.target, third.fault) == ((), None)


def test_exported_captions_are_read(tmp_path: Path) -> None:
    """``producer export --format captions`` writes ``a.png.txt``."""
    write_files(tmp_path, {"a.png": PNG, "a.png.txt": "A red square.", "b.jpg": PNG, "b.png": PNG, "b.png.txt": "Second."})
    with capture_logs() as lines:
        samples = read(tmp_path)
    assert [(sample.index, sample.target) for sample in samples] == [
        ("a.png", ("A red square.",)),
        ("b.jpg", ()),
        ("b.png", ("Second.",)),
    ]
    assert lines == []


def test_second_caption_of_an_image_is_logged(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PNG, "a.png.txt": "By export.", "a.txt": "By hand."})
    with capture_logs() as lines:
        (sample,) = read(tmp_path)
    assert sample.target == ("By hand.",)
    assert [(line["event"], line["files"], line["first"]) for line in lines] == [("dataset.captions_doubled", 1, "a.png.txt")]


def test_mapped_field_takes_precedence_over_the_caption(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PNG, "a.txt": "caption", "a.json": '{"label": "red"}'})
    assert read(tmp_path, fields={"target": "label"})[0].target == ("red",)
    assert read(tmp_path, fields={"target": "caption"})[0].target == ("caption",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "question": "One?", "answer": "1"}\n{"file_name": "sub/b.png", "answer": "2"}\n'
            '{"file_name": "a.png", "question": "Two?", "answer": "3"}\n',
        ),
        ("metadata.csv", 'file_name,question,answer\na.png,One?,1\r\nsub/b.png,,2\n"a.png","Two?",3\n'),
    ],
)
def test_metadata_file_has_a_row_for_each_question(tmp_path: Path, name: str, content: str) -> None:
    write_files(tmp_path, {"a.png": PNG, "sub/b.png": PNG, "z.png": PNG, name: content})
    samples = read(tmp_path)
    assert [(sample.index, sample.question, sample.target) for sample in samples] == [
        ("a.png", "One?", ("1",)),
        ("sub/b.png", "What?", ("2",)),
        ("a.png#2", "Two?", ("3",)),
        ("z.png", "What?", ()),
    ]
    assert [sample.media[0].uri for sample in samples] == [f"{tmp_path}/{n}" for n in ("a.png", "sub/b.png", "a.png", "z.png")]
    assert not any(sample.fault for sample in samples)


def test_metadata_file_names_files_of_its_folder(tmp_path: Path) -> None:
    write_files(tmp_path, {"sub/b.png": PNG, "sub/metadata.jsonl": '{"file_name": "b.png", "answer": "2"}'})
    assert [(sample.index, sample.target) for sample in read(tmp_path)] == [("sub/b.png", ("2",))]


@pytest.mark.parametrize(
    ("line", "code", "part"),
    [
        ('{"file_name": "none.png"}', "media_missing", "field 'file_name': found 'none.png', which is not a file"),
        ('{"file_name": "../a.png"}', "media_missing", "found '../a.png', which is not a file in the dataset's folder"),
        ('{"file_name": "note.txt"}', "bad_media", "found 'note.txt', which has no ending of image files"),
        ('{"file_name": 3}', "bad_media", "absent or not text"),
        ('{"answer": "x"}', "bad_media", "absent or not text"),
        ("[1]", "bad_row", "expected a JSON object"),
    ],
)
def test_bad_metadata_row_is_a_fault(tmp_path: Path, line: str, code: str, part: str) -> None:
    write_files(tmp_path, {"a.png": PNG, "note.txt": "x", "metadata.jsonl": f'{{"file_name": "a.png"}}\n{line}\n'})
    good, bad = read(tmp_path)
    assert good.fault is None
    assert bad.fault is not None
    assert bad.fault.code == code
    assert "metadata.jsonl: line 2: " in bad.fault.message
    assert part in bad.fault.message


def test_bad_csv_row_is_a_fault(tmp_path: Path) -> None:
    content = b'file_name,answer\na.png,x,y\nb.png,\xff\nc.png,good\nd.png,"open\n'
    write_files(tmp_path, {f"{name}.png": PNG for name in "abcd"} | {"metadata.csv": content})
    samples = read(tmp_path)
    assert [sample.fault.code if sample.fault else None for sample in samples[:4]] == ["bad_row", "bad_row", None, "bad_row"]
    parts = ["line 2: found 3 cells; expected 2", "line 3: field 'answer': not UTF-8", "line 5: a cell has an unclosed quote"]
    assert [
        part for part, sample in zip(parts, (samples[0], samples[1], samples[3]), strict=True) if part in message_of(sample)
    ] == parts


def test_csv_without_file_name_column_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PNG, "metadata.csv": "file,answer\na.png,x\n"})
    with pytest.raises(ConfigError, match="the header has no column 'file_name'; found file, answer"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("header", "part"),
    [("file_name,answer,answer", "two columns are called 'answer'"), ('file_name,"answer', "the header has an unclosed quote")],
)
def test_csv_with_unclear_header_is_refused(tmp_path: Path, header: str, part: str) -> None:
    write_files(tmp_path, {"a.png": PNG, "metadata.csv": f"{header}\na.png,x,y\n"})
    with pytest.raises(ConfigError, match=part):
        read(tmp_path)


def test_csv_rows_after_a_long_or_open_cell_are_read(tmp_path: Path) -> None:
    content = "file_name,note\na.png," + "x" * 200_000 + '\nb.png,"open\nc.png,good\n'
    write_files(tmp_path, {f"{name}.png": PNG for name in "abc"} | {"metadata.csv": content})
    first, second, third = read(tmp_path)[:3]
    assert (first.fault, len(first.metadata["note"])) == (None, 200_000)
    assert "a cell has an unclosed quote" in message_of(second)
    assert (third.index, third.fault) == ("c.png", None)


def test_csv_may_lack_our_fields_and_mapped_fields(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PNG, "a.txt": "A cat.", "metadata.csv": "file_name,questions\na.png,x\n"})
    (sample,) = read(tmp_path, fields={"target": "caption"})
    assert (sample.target, sample.fault, sample.metadata["questions"]) == (("A cat.",), None, "x")


@pytest.mark.parametrize(
    ("files", "code", "part"),
    [
        ({"a.json": "{"}, "bad_row", "a.json: not JSON"),
        ({"a.json": "[1]"}, "bad_row", "a.json: found [1]"),
        ({"a.json": '{"question": "x", "question": "y"}'}, "bad_row", "the key 'question' is given twice"),
        ({"a.json": '{"question": 5}'}, "bad_field", "folder: a.png: field 'question': found 5"),
        ({"a.txt": b"\xff"}, "bad_field", "a.txt: not UTF-8 (byte 1)"),
        ({"a.txt": b"x" * (8 * 2**20 + 1)}, "bad_field", "a.txt: longer than 8,388,608 bytes"),
    ],
)
def test_bad_file_beside_an_image_is_a_fault(tmp_path: Path, files: dict[str, bytes | str], code: str, part: str) -> None:
    folder = write_files(tmp_path / "folder", {"a.png": PNG, "b.png": PNG, **files})
    bad, good = read(folder)
    assert good.fault is None
    assert (bad.index, bad.fault.code if bad.fault else None) == ("a.png", code)
    assert "folder: a.png" in message_of(bad)
    assert part in message_of(bad)
    assert str(bad.media[0].uri).endswith("/a.png")


def test_link_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", {"a.png": PNG})
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    (sample,) = read(folder)
    assert sample.fault is not None
    assert (sample.fault.code, sample.target) == ("media_forbidden", ())


def test_name_that_is_not_utf8_is_a_fault(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(PNG)
    (sample,) = read(tmp_path, format="image_folder")
    assert "is not UTF-8; rename the file" in message_of(sample)
    assert sample.model_dump_json()


def test_file_without_an_image_stays_a_sample(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": b"", "b.png": "not an image"})
    assert [(sample.index, sample.fault) for sample in read(tmp_path)] == [("a.png", None), ("b.png", None)]


def test_other_files_are_reported(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PNG, "a.txt": "x", "b.txt": "y", "c.PDF": "z", "d/README": "r", "e.mp4": b"v"})
    (tmp_path / "linked").symlink_to(tmp_path / "d")
    with capture_logs() as logs:
        assert len(read(tmp_path)) == 1
        assert len(read(tmp_path)) == 1
    (event,) = logs
    assert (event["event"], event["files"]) == ("dataset.files_skipped", 5)
    assert event["endings"] == {".mp4": 1, ".pdf": 1, ".txt": 1, "none": 2}


@pytest.mark.parametrize("files", [{}, {"a.txt": "x"}, {".a.png": PNG}])
def test_folder_without_media_is_refused(tmp_path: Path, files: dict[str, bytes | str]) -> None:
    write_files(tmp_path, files)
    with pytest.raises(ConfigError, match="holds no rows"):
        read(tmp_path, format="image_folder")
    with pytest.raises(ConfigError, match="is a folder without images, videos or a saved Hugging Face dataset; expected"):
        read(tmp_path)


def test_missing_question_is_a_fault(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PNG})
    (sample,) = read_dataset(DatasetSource(path=str(tmp_path)))
    assert sample.fault is not None
    assert sample.fault.code == "missing_question"


def test_csv_row_may_lack_some_options(tmp_path: Path) -> None:
    content = "file_name,question,A,B,C,answer\na.png,One?,x,,z,C\nb.png,Two?,,,,x\n"
    write_files(tmp_path, {"a.png": PNG, "b.png": PNG, "metadata.csv": content})
    assert [(sample.options, sample.target) for sample in read(tmp_path)] == [({"A": "x", "C": "z"}, ("C",)), ({}, ("x",))]
