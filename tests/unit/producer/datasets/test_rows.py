"""Conversion of rows to samples: identity, kind, group, fields and faults are the same for every format."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from common.digests import digest_bytes
from common.records import Media
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from producer.datasets.survey import survey_dataset
from tests.support.datasets import fault_of, read_one, read_rows, read_unsurveyed

# Fields that planning and later waves set, and the identity.
LATER = {
    "sample_id",
    "group",
    "messages",
    "request_digest",
    "twins",
    "made_before",
    "violations_before",
    "turn_targets",
    "turn_before",
}


def test_row_becomes_a_sample(tmp_path: Path) -> None:
    row = {
        "id": "q7",
        "question": "Which?",
        "hint": "Look.",
        "options": {"A": "x", "B": "y"},
        "answer": "B",
        "image": "a.png",
        "topic": "z",
    }
    (sample,) = read_unsurveyed(tmp_path, row, name="demo")
    assert sample.model_dump(exclude=LATER) == {
        "dataset": "demo",
        "row": 0,
        "index": "q7",
        "kind": "multiple_choice",
        "question": "Which?",
        "hint": "Look.",
        "options": {"A": "x", "B": "y"},
        "target": ("B",),
        "media": (Media(uri=f"{tmp_path}/a.png").model_dump(),),
        "metadata": {"topic": "z"},
        "fault": None,
    }
    assert len(sample.sample_id) == 32
    assert len(sample.group) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"question": "Another?"},
        {"hint": "h"},
        {"options": ["x", "y"]},
        {"kind": "short_text"},
        {"target": "t"},
        {"image": "b.png"},
        {"image": ["a.png", "a.png"]},
        {"image": None, "video": "a.png"},
        {"group": "g"},
    ],
)
def test_sample_id_covers_request_and_target(tmp_path: Path, change: dict[str, Any]) -> None:
    row = {"question": "Q?", "image": "a.png"}
    first, second = read_unsurveyed(tmp_path, row, row | change)
    assert first.sample_id != second.sample_id


def test_sample_id_ignores_index_metadata_and_location(tmp_path: Path) -> None:
    row = {"question": "Q?", "image": "a.png"}
    first, second = read_unsurveyed(tmp_path, row | {"id": 1, "topic": "x"}, row | {"id": 2})
    (tmp_path / "moved").mkdir()
    (moved,) = read_unsurveyed(tmp_path / "moved", row)
    assert first.sample_id == second.sample_id == moved.sample_id
    assert first.group == second.group == moved.group


def test_sample_id_covers_the_dataset(tmp_path: Path) -> None:
    (one,), (other,) = (read_unsurveyed(tmp_path, {"question": "Q?"}, name=name) for name in ("one", "other"))
    assert one.sample_id != other.sample_id


def test_sample_ids_are_stable(tmp_path: Path) -> None:
    (sample,) = read_unsurveyed(tmp_path, {"question": "Q?", "options": ["x", "y"], "answer": "A", "image": "a.png"}, name="demo")
    assert (sample.sample_id, sample.group) == ("4456e8a5517be62b160ab4b90315e4d3", "5b20a0875432930d")


def test_group_comes_from_field_media_or_sample(tmp_path: Path) -> None:
    rows = [
        {"question": "1?", "image": "a.png"},
        {"question": "2?", "image": ["a.png"]},
        {"question": "3?", "image": "b.png"},
        {"question": "4?"},
        {"question": "5?", "image": "a.png", "group": "page-7"},
        {"question": "6?", "group": 7},
    ]
    samples = read_unsurveyed(tmp_path, *rows)
    groups = [sample.group for sample in samples]
    assert groups[0] == groups[1] != groups[2]
    assert groups[3] == samples[3].sample_id
    assert groups[4:] == ["page-7", "7"]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"options": ["x", "y"], "target": "yes"}, "multiple_choice"),
        ({"target": "Yes"}, "yes_no"),
        ({"target": [" no", "YES"]}, "yes_no"),
        ({"target": True}, "yes_no"),
        ({"target": 7}, "number"),
        ({"target": ["-1.5", "1,234", "3e4", "12%", ".5"]}, "number"),
        ({"target": ["7", "seven"]}, "short_text"),
        ({"target": ["yes", "maybe"]}, "short_text"),
        ({"target": "."}, "short_text"),
        ({"target": "1,23"}, "short_text"),
        ({}, "free_text"),
        ({"target": []}, "free_text"),
        ({"kind": "number", "options": ["x"]}, "number"),
    ],
)
def test_kind_comes_from_row_options_or_target(tmp_path: Path, row: dict[str, Any], kind: str) -> None:
    assert read_one(tmp_path, **row).kind == kind


def test_kind_of_source_overrides_kind_of_row(tmp_path: Path) -> None:
    (sample,) = read_unsurveyed(tmp_path, {"question": "Q?", "kind": "number"}, kind="free_text")
    assert sample.kind == "free_text"


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ("cat", ("cat",)),
        ("", ()),
        (None, ()),
        (3, ("3",)),
        (2.5, ("2.5",)),
        (False, ("No",)),
        (["cat", 3, True, None, " "], ("cat", "3", "Yes")),
        ([{"answer": "cat", "answer_confidence": "yes"}, {"answer": "cat"}, {"answer": ""}], ("cat", "cat")),
        ("['cat', 'dog']", ("cat", "dog")),
        ('["cat", "", null, 3, true]', ("cat", "3", "Yes")),
        ("[{'answer': 'cat', 'answer_confidence': 'yes'}, {'answer': 'dog'}]", ("cat", "dog")),
        ([], ()),
        ("[]", ("[]",)),
        ("[1, 2]", ("[1, 2]",)),
        (["['cat', 'dog']"], ("['cat', 'dog']",)),
    ],
)
def test_targets_of_any_type_become_texts(tmp_path: Path, value: Any, target: tuple[str, ...]) -> None:
    assert read_one(tmp_path, answers=value).target == target


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (["x", "y"], {"A": "x", "B": "y"}),
        (["x", "", None, 4], {"A": "x", "D": "4"}),
        ({"B": "x", "A": "y", "C": None}, {"B": "x", "A": "y"}),
        ({}, {}),
    ],
)
def test_options_keep_their_letters(tmp_path: Path, value: Any, options: dict[str, str]) -> None:
    sample = read_one(tmp_path, options=value)
    assert list(sample.options.items()) == list(options.items())
    assert sample.fault is None


@pytest.mark.parametrize(
    ("target", "letters"),
    [
        *(("B", ("B",)), ("b", ("B",)), ("Dog ", ("B",)), (["cat", "B"], ("A", "B")), (None, ())),
        *(("['cat', 'B']", ("A", "B")), ('["dog"]', ("B",)), ("['C']", ("C",))),
    ],
)
def test_multiple_choice_target_becomes_a_letter(tmp_path: Path, target: Any, letters: tuple[str, ...]) -> None:
    assert read_one(tmp_path, options=["cat", "dog", "['C']"], target=target).target == letters


@pytest.mark.parametrize(("options", "target"), [(["cat", "dog"], "Z"), (["cat", "dog"], "1"), (["cat", "cat"], "cat")])
def test_target_without_exactly_one_option_is_fault(tmp_path: Path, options: list[str], target: str) -> None:
    fault = read_one(tmp_path, options=options, target=target).fault
    assert fault is not None
    assert fault.code == "bad_field"
    assert "expected one of the letters A, B, or one option's text" in fault.message


def test_row_without_id_is_indexed_by_number(tmp_path: Path) -> None:
    samples = read_unsurveyed(tmp_path, {"question": "1?"}, {"question": "2?", "id": None}, {"question": "3?", "index": 10**30})
    assert [sample.index for sample in samples] == ["0", "1", str(10**30)]


@pytest.mark.parametrize("row", [{}, {"question": None}, {"question": " \n"}])
def test_row_without_question_is_a_fault(tmp_path: Path, row: dict[str, Any]) -> None:
    (sample,) = read_unsurveyed(tmp_path, row | {"id": "q1", "topic": "z", "target": "x"})
    code, message = fault_of(sample)
    assert (code, sample.index, sample.metadata, sample.target) == ("missing_question", "q1", {"topic": "z"}, ("x",))
    assert message == "set.jsonl: line 1: field 'question': absent, null or blank; expected the question's text"


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("question", ["Q?"], "found ['Q?'] (a list); expected text"),
        ("question", 7, "found 7 (a number); expected text"),
        ("hint", {"a": 1}, "found {'a': 1} (an object); expected text"),
        ("options", "x", "expected a mapping of letters to texts, or a list of texts"),
        ("options", {"1": "x"}, "found '1' (text); expected a capital letter from A to Z"),
        ("options", {"A": ["x"]}, "found ['x'] (a list)"),
        ("options", ["x"] * 27, "at most 26 options, not 27"),
        ("target", {"text": "x"}, "found {'text': 'x'} (an object)"),
        ("target", float("nan"), "found nan (a number)"),
        ("target", [{"text": "x"}], "found {'text': 'x'} (an object)"),
        ("target", [{"answer": ["x"]}], "found ['x'] (a list)"),
        ("question", "['What colour?', 'And its shape?']", "found a list of 2 turns; expected one question"),
        ("id", [1], "expected a whole number or text"),
        ("id", True, "expected a whole number or text"),
        ("id", 1.5, "expected a whole number or text"),
        ("group", {}, "expected a whole number or text"),
        ("kind", "yes-no", "expected one of multiple_choice, yes_no, number, short_text, free_text; did you mean 'yes_no'?"),
        ("kind", 3, "expected one of multiple_choice"),
        ("image", 3, "expected a data: URL, a URL or a path"),
        ("image", [{"file": "a.png"}], "expected an object with one of bytes, url and path"),
        ("image", {"path": None, "bytes": None}, "expected an object with one of bytes, url and path"),
        ("image", ["a.png", None], "expected a data: URL, a URL or a path"),
    ],
)
def test_wrong_field_type_is_a_bad_field(tmp_path: Path, field: str, value: Any, part: str) -> None:
    good = {"question": "Q?", "topic": "z"}
    before, sample, after = read_unsurveyed(tmp_path, good, good | {field: value}, good)
    code, message = fault_of(sample)
    assert code == "bad_field"
    assert message.startswith(f"set.jsonl: line 2: field '{field}': found ")
    assert part in message
    assert sample.metadata == {"topic": "z"}
    assert before.fault is after.fault is None


@pytest.mark.parametrize(
    "url",
    ["data:image/png;base64", "data:image/png,abc", "data:image/png;base64,", "data:image/png;base64,a?b=", "data:x;base64,ä"],
)
def test_invalid_data_url_is_bad_media(tmp_path: Path, url: str) -> None:
    code, message = fault_of(read_one(tmp_path, image=url))
    assert code == "bad_media"
    assert message.startswith("set.jsonl: line 1: field 'image': found ")


@pytest.mark.parametrize("reference", ["a\0.png", "x" * 5000])
def test_invalid_path_is_bad_media(tmp_path: Path, reference: str) -> None:
    assert fault_of(read_one(tmp_path, image=reference))[0] == "bad_media"


def test_media_are_read_from_paths_urls_or_base64(tmp_path: Path) -> None:
    references = ["a/b.png", "/abs/c.png", "https://h.example/d.png", "DATA:image/png;base64,aGk=", ""]
    sample = read_one(tmp_path, image=references, video="e.mp4")
    assert sample.media == (
        Media(uri=f"{tmp_path}/a/b.png"),
        Media(uri="/abs/c.png"),
        Media(uri="https://h.example/d.png"),
        Media(data="aGk=", digest=digest_bytes(b"hi")),
        Media(uri=f"{tmp_path}/e.mp4", kind="video"),
    )


def test_relative_paths_resolve_against_media_root(tmp_path: Path) -> None:
    (sample,) = read_unsurveyed(tmp_path, {"question": "Q?", "image_path": "a.png"}, media_root="/media")
    assert sample.media == (Media(uri="/media/a.png"),)


def test_only_equal_faulty_rows_are_duplicates(tmp_path: Path) -> None:
    first, second, third = read_unsurveyed(tmp_path, {"id": 1}, {"id": 1}, {"id": 2})
    assert first.sample_id == second.sample_id != third.sample_id


def test_duplicates_keep_file_order_and_count_to_limit(tmp_path: Path) -> None:
    rows = [{"question": "1?"}, {"question": "2?"}, {"question": "1?"}, {"question": "3?"}]
    samples = read_unsurveyed(tmp_path, *rows, limit=3)
    assert [sample.question for sample in samples] == ["1?", "2?", "1?"]
    assert samples[0].sample_id == samples[2].sample_id != samples[1].sample_id


MATHVISTA = {"question": "How long?", "precision": 1.0, "unit": "cm", "question_type": "free_form", "answer_type": "text"}


@pytest.mark.parametrize(
    ("change", "kind", "options", "target"),
    [
        ({"answer_type": "float", "choices": None, "answer": "1.2"}, "number", {}, ("1.2",)),
        ({"answer_type": "integer", "answer": "8"}, "number", {}, ("8",)),
        ({"answer_type": "list", "answer": "[1, 2]", "choices": "[]"}, "short_text", {}, ("[1, 2]",)),
        ({"answer_type": "text", "answer": "yes"}, "short_text", {}, ("yes",)),
        (
            {"question_type": "multi_choice", "choices": ["1 cm", "2 cm"], "answer": "2 cm"},
            "multiple_choice", {"A": "1 cm", "B": "2 cm"}, ("B",),
        ),
        (
            {"question_type": "multi_choice", "choices": "['1.20', '2']", "answer": "1.20", "answer_type": "float"},
            "multiple_choice", {"A": "1.20", "B": "2"}, ("A",),
        ),
        ({"question_type": "other", "answer": "7"}, "number", {}, ("7",)),
        ({"answer_type": "float", "kind": "free_text"}, "free_text", {}, ()),
    ],
)  # fmt: skip
def test_mathvista_rows_keep_their_type(
    tmp_path: Path, change: dict[str, Any], kind: str, options: dict[str, str], target: tuple[str, ...]
) -> None:
    (sample,) = read_rows(tmp_path, MATHVISTA | change)
    assert (sample.kind, sample.options, sample.target, sample.fault) == (kind, options, target, None)
    assert (sample.metadata["precision"], sample.metadata["unit"]) == (1.0, "cm")


def test_mathvista_choice_without_options_is_fault(tmp_path: Path) -> None:
    code, message = fault_of(read_one(tmp_path, **{**MATHVISTA, "question_type": "multi_choice", "choices": None, "answer": "2"}))
    assert code == "bad_field"
    assert message.endswith("field 'question_type': found 'multi_choice', and the row has no options; expected them in choices")


FORMATS = ("csv", "tsv", "jsonl", "json", "parquet")


def write_table(folder: Path, ending: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows of texts in a format."""
    path = folder / f"set.{ending}"
    if ending in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="," if ending == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif ending == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = "\n".join(map(json.dumps, rows))
        path.write_text(lines if ending == "jsonl" else json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("column", ["target", "answer", "answers"])
def test_list_literal_is_several_answers_in_every_format(tmp_path: Path, ending: str, column: str) -> None:
    rows = [{"question": "Q?", "image": "a.png", column: answers} for answers in ("['cat', 'dog']", '["cat"]', "[1, 2]", "cat")]
    path = write_table(tmp_path, ending, rows)
    assert [sample.target for sample in read_dataset(DatasetSource(path=str(path)))] == [
        *(("cat", "dog"), ("cat",), ("[1, 2]",), ("cat",))
    ]
    (notice,) = [one for one in survey_dataset(DatasetSource(path=str(path))).notices if one.event == "dataset.target_unclear"]
    assert (notice.column, notice.rows) == (column, 1)


@pytest.mark.parametrize("ending", FORMATS)
def test_list_literal_is_several_images_in_every_format(tmp_path: Path, ending: str) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    path = write_table(tmp_path, ending, [{"question": "Q?", "images": "['a.png', 'b.png']", "answer": "x"}])
    source = survey_dataset(DatasetSource(path=str(path))).source
    (sample,) = read_dataset(source)
    assert [media.uri for media in sample.media] == [f"{tmp_path}/a.png", f"{tmp_path}/b.png"]
    assert all(media.digest for media in sample.media)
