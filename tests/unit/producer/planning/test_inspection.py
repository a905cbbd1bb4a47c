"""The format, fields and faults that ``producer inspect`` finds in a dataset, and the lines that it writes for a spec."""

import json
from collections.abc import Sequence
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.spec.files import read_specs
from producer.datasets import read_dataset
from producer.datasets.survey import survey_specs
from producer.planning.inspection import DEFAULT_QUESTION, Inspection, count_unique, find_source, inspect_dataset
from producer.planning.plan import describe_plan
from producer.planning.requests import render_samples
from tests.support.fleet import ROOT

INPUTS = ROOT / "tests" / "support" / "inputs"
Rows = Sequence[dict[str, Any]]


def inspect(*paths: Path | str, fields: Sequence[str] = (), format_name: str | None = None, rows: int = 3) -> Inspection:
    return inspect_dataset(find_source([str(path) for path in paths], format_name, fields), most_rows=rows)


def write(folder: Path, rows: Rows, name: str = "set.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def plan_pasted(folder: Path, inspection: Inspection) -> dict[str, Any]:
    """Return what a dry run of ``producer enqueue`` finds for the lines of an inspection."""
    spec_path = folder / "pasted" / "spec.yaml"
    spec_path.parent.mkdir(exist_ok=True)
    spec_path.write_text(f"model: echo\n{inspection.lines}", encoding="utf-8")
    (spec,), _ = survey_specs(read_specs(spec_path))
    return describe_plan(spec, render_samples((sample for source in spec.datasets for sample in read_dataset(source)), spec))


# Format, rows, unique, fields by column, codes of faults.
RECOGNISED: dict[str, tuple[str, int, int, dict[str, str], dict[str, int]]] = {
    "llava.jsonl": ("jsonl", 2, 2, {"id": "id", "image": "image", "conversations": "messages"}, {}),
    "messages.jsonl": ("jsonl", 1, 1, {"id": "id", "messages": "messages", "answer": "target"}, {}),
    "other_keys.jsonl": ("jsonl", 3, 3, {"id": "id", "question": "question", "img": "image", "answer": "target"}, {}),
    "twins.jsonl": ("jsonl", 2, 1, {"id": "id", "question": "question", "image": "image"}, {}),
    "markers.jsonl": (
        *("jsonl", 4, 4),
        {"id": "id", "question": "question", "image": "image", "options": "options", "answer": "target"},
        {"bad_field": 1},
    ),
    "options.tsv": (
        *("vlmeval_tsv", 3, 3),
        {"index": "id", "question": "question", **dict.fromkeys("ABC", "options"), "answer": "target", "image": "image"},
        {},
    ),
    "choices.tsv": (
        *("vlmeval_tsv", 2, 2),
        {"index": "id", "question": "question", "choices": "options", "answer": "target", "image_path": "image"},
        {},
    ),
}


@pytest.mark.parametrize("name", RECOGNISED)
def test_columns_and_counts_of_inputs_are_recognised(tmp_path: Path, name: str) -> None:
    format_name, rows, unique, fields, faults = RECOGNISED[name]
    found = inspect(INPUTS / name)
    assert (found.format, found.rows, found.unique, found.duplicates) == (format_name, rows, unique, rows - unique)
    assert {one.column: one.field for one in found.fields} == fields
    assert {fault.code: fault.rows for fault in found.faults} == faults
    assert found.refusal is None


@pytest.mark.parametrize("name", sorted(path.name for path in INPUTS.iterdir() if path.suffix in (".jsonl", ".tsv")))
def test_pasted_lines_plan_what_was_counted(tmp_path: Path, name: str) -> None:
    found = inspect(INPUTS / name)
    if found.refusal:
        assert (found.lines, found.faulty) == (None, found.rows)
        return
    planned = plan_pasted(tmp_path, found)
    counted = {"name": found.dataset, "rows": found.rows, "unique": found.unique, "duplicates": found.duplicates}
    assert planned["datasets"] == [counted]
    assert planned["faults_by_code"] == {fault.code: fault.rows for fault in found.faults}


VALUES = st.sampled_from(["a?", "b?", " ", None, 7])


@given(st.lists(st.tuples(VALUES, st.sampled_from(["yes", "red", None]), st.sampled_from([["x", "y"], None, "z"])), max_size=12))
def test_counts_equal_those_of_planning(tmp_path_factory: pytest.TempPathFactory, values: list[tuple[Any, Any, Any]]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = [{"question": question, "answer": answer, "options": options} for question, answer, options in values]
    found = inspect(write(folder, [*rows, {"question": "whole?"}]))
    planned = plan_pasted(folder, found)
    assert planned["datasets"] == [{"name": "set", "rows": found.rows, "unique": found.unique, "duplicates": found.duplicates}]
    assert planned["faults_by_code"] == {fault.code: fault.rows for fault in found.faults}
    assert sum(found.kinds.values()) + found.faulty == found.rows


@given(st.lists(st.integers(0, 5)))
def test_unique_digests_are_counted(numbers: list[int]) -> None:
    digests = b"".join(bytes([number % 2]) * 8 + bytes([number]) * 8 for number in numbers)
    assert count_unique(digests) == len(set(numbers))


# Rows shown


def test_first_rows_are_shown_as_asked(tmp_path: Path) -> None:
    first, second = inspect(INPUTS / "markers.jsonl", rows=2).first_rows
    assert [(one.kind, one.width, one.height) for one in first.media] == [("image", 24, 24)] * 2
    assert first.messages[0].content[:4] == ("Question: Compare ", 1, " with ", 0)
    assert (second.options, second.target) == ({"A": "<image 1>", "B": "<image 2>", "C": "<image 3>"}, ("B",))


@pytest.mark.parametrize(("rows", "shown"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_number_of_shown_rows_is_chosen(rows: int, shown: int) -> None:
    assert len(inspect(INPUTS / "options.tsv", rows=rows).first_rows) == shown


def test_lists_of_turns_are_shown_as_asked(tmp_path: Path) -> None:
    found = inspect(write(tmp_path, [{"question": ["One?", "Two?"], "answer": ["1", "2"]}]))
    assert yaml.safe_load(found.lines or "")["prompt"] == {"multi_turn": "ask"}
    assert [message.content for message in found.first_rows[0].messages] == [("One?",), ("Two?",)]
    assert [(notice.event, notice.rows) for notice in found.notices] == [("dataset.several_turns", 1)]
    assert found.adopted == ("prompt: {multi_turn: ask}: questions are lists of turns",)


def test_single_list_among_questions_is_a_fault(tmp_path: Path) -> None:
    found = inspect(write(tmp_path, [{"question": "['One?', 'Two?']"}, {"question": "Why?"}]))
    assert [(fault.code, fault.rows) for fault in found.faults] == [("bad_field", 1)]
    assert "prompt" not in yaml.safe_load(found.lines or "")


def test_conversations_with_several_turns_are_reported(tmp_path: Path) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    found = inspect(write(tmp_path, [{"messages": turns}, {"messages": turns[:1]}]))
    (notice,) = found.notices
    assert (notice.event, notice.rows) == ("dataset.several_turns", 1)
    assert "prompt: {multi_turn: ask} asks the turns one after the other" in notice.hint


def test_faulty_row_is_shown_without_messages(tmp_path: Path) -> None:
    found = inspect(write(tmp_path, [{"answer": "x"}, {"question": "Why?"}, {"question": " "}]))
    assert [(row.fault is None, len(row.messages)) for row in found.first_rows] == [(False, 0), (True, 1), (False, 0)]
    (fault,) = found.faults
    assert (fault.code, fault.rows) == ("missing_question", 2)
    assert fault.first.startswith("set.jsonl: line 1: ")


# Options that are needed


def test_question_column_of_another_name_is_adopted(tmp_path: Path) -> None:
    found = inspect(write(tmp_path, [{"query": "a?", "text": None}, {"query": "b?"}]))
    assert yaml.safe_load(found.lines or "")["datasets"][0]["fields"] == {"question": "query"}
    assert found.adopted == ("fields: {question: query}: no column is called question",)
    assert plan_pasted(tmp_path, found)["samples"] == 2


def test_folder_of_images_gets_a_question(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for image in INPUTS.glob("*.png"):
        copy(image, folder)
    found = inspect(folder)
    assert (found.format, found.rows, found.faulty) == ("image_folder", 3, 0)
    assert yaml.safe_load(found.lines or "")["datasets"][0]["question"] == DEFAULT_QUESTION
    assert found.notices == ()
    assert plan_pasted(tmp_path, found)["samples"] == 3


def test_given_field_is_not_replaced(tmp_path: Path) -> None:
    found = inspect(write(tmp_path, [{"query": "a?", "text": "b?"}]), fields=["question=text"])
    assert yaml.safe_load(found.lines or "")["datasets"][0]["fields"] == {"question": "text"}
    assert found.adopted == ()


def test_optional_column_is_only_suggested(tmp_path: Path) -> None:
    found = inspect(write(tmp_path, [{"question": "a?", "label": "x"}, {"question": "b?", "label": None}]))
    assert "fields" not in yaml.safe_load(found.lines or "")["datasets"][0]
    assert [(one.column, one.rows) for one in found.metadata] == [("label", 1)]
    assert [(notice.column, notice.looks_like) for notice in found.notices] == [("label", "target")]


def test_faulty_rows_only_are_a_refusal(tmp_path: Path) -> None:
    found = inspect(write(tmp_path, [{"answer": "x"}, {"answer": "y"}]))
    assert found.lines is None
    assert found.refusal is not None
    assert "all of its rows are faulty (2)" in found.refusal


def test_unused_media_are_a_refusal_with_facts(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes((INPUTS / "red.png").read_bytes())
    path = write(tmp_path, [{"question": "a?", "img": "red.png", "picture": None}, {"question": "b?", "picture": ""}])
    found = inspect(path, fields=["image=picture"])
    assert found.lines is None
    assert found.refusal is not None
    assert "column 'img' holds media in 1 rows" in found.refusal
    assert (found.rows, found.unique, len(found.first_rows)) == (2, 2, 2)


def test_missing_media_are_a_refusal(tmp_path: Path) -> None:
    found = inspect(write(tmp_path, [{"question": "a?", "image": "missing.png"}]))
    assert found.lines is None
    assert found.refusal is not None
    assert "the media of all 1 rows with media are missing" in found.refusal
    assert [(notice.event, notice.rows) for notice in found.notices] == [("dataset.media_missing", 1)]


# Paths


def test_several_files_are_one_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write(tmp_path, [{"question": f"{number}?"}], f"part-{number}.jsonl")
    asked = [["part-*.jsonl"], ["part-{0..2}.jsonl"], [str(tmp_path)], [f"part-{number}.jsonl" for number in range(3)]]
    for paths in asked:
        found = inspect(*paths)
        assert (len(found.files), found.rows, found.unique) == (3, 3, 3)
        assert plan_pasted(tmp_path, found)["samples"] == 3


NAMES = ["my data.jsonl", "ümläut.jsonl", "_x.jsonl", "yes.jsonl", "1e3.jsonl", "a: b #c.jsonl", "'q\".jsonl", "é" * 90 + ".jsonl"]


@pytest.mark.parametrize("name", NAMES)
def test_strange_file_names_can_be_pasted(tmp_path: Path, name: str) -> None:
    assert plan_pasted(tmp_path, inspect(write(tmp_path, [{"question": "a?"}], name)))["samples"] == 1


@pytest.mark.parametrize("column", ["yes", "null", "1e3", "007", "a: b", "{x}", "*x", "- x", "#x", "ü\n", "'", "2020-01-01", "~"])
def test_strange_column_names_can_be_pasted(tmp_path: Path, column: str) -> None:
    found = inspect(write(tmp_path, [{column: "a?"}]), fields=[f"question={column}"])
    assert plan_pasted(tmp_path, found)["samples"] == 1


# Dirty inputs

DIRTY: dict[str, tuple[str, bytes, str]] = {
    "an empty file": ("set.jsonl", b"", "holds no rows"),
    "bytes of no format": ("set.bin", bytes(range(256)), "no reader for files like"),
    "a header only": ("set.csv", b"question,answer\n", "holds no rows"),
    "a header without a known name": ("set.csv", b"a,b\n1,2\n", "has no column 'question'"),
    "two columns of one name": ("set.tsv", b"question\tquestion\n1\t2\n", "two columns are called 'question'"),
    "a damaged Parquet file": ("set.parquet", b"PAR1 and nothing else", "cannot be read as Parquet"),
    "a JSON file that ends early": ("set.json", b'[{"question": "a?"}, {"que', "set.json"),
    "a compressed file that ends early": ("set.jsonl.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab", "set.jsonl.gz"),
    "a spec in place of a dataset": ("set.yaml", b"model: tiny\n", "no reader for files like"),
}


@pytest.mark.parametrize(("name", "content", "message"), DIRTY.values(), ids=DIRTY)
def test_unreadable_dataset_is_config_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        inspect(tmp_path / name)
    assert message in str(caught.value)


SPOILED: dict[str, bytes] = {
    "not UTF-8": b'{"question": "a\xff?"}',
    "not JSON": b"question: a?",
    "a list": b"[1, 2]",
    "a duplicate key": b'{"question": "a?", "question": "b?"}',
    "deep nesting": b'{"question": "a?", "x": ' + b"[" * 500 + b"]" * 500 + b"}",
    "a question that is a number": b'{"question": 7}',
    "a path with a NUL": b'{"question": "a?", "image": "a\\u0000b"}',
    "damaged base64": b'{"question": "a?", "image": "data:image/png;base64,@@@@"}',
}


@pytest.mark.parametrize("line", SPOILED.values(), ids=SPOILED)
def test_spoiled_row_is_one_fault_among_others(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(b'{"question": "first?"}\n' + line + b'\n{"question": "last?"}\n')
    found = inspect(path)
    assert (found.rows, found.unique, found.faulty) == (3, 3, 1)
    assert "line 2" in found.faults[0].first
    assert plan_pasted(tmp_path, found)["faults"] == 1


@pytest.mark.parametrize(
    ("paths", "fields", "format_name", "message"),
    [
        (["nowhere.jsonl"], [], None, "path: no file '/"),
        (["nothing-*.jsonl"], [], None, "no file matches"),
        (["set.jsonl"], ["image"], None, "--field 'image': expected OURS=THEIRS"),
        (["set.jsonl"], ["=x"], None, "--field '=x': expected OURS=THEIRS"),
        (["set.jsonl"], ["hint=a", "hint=b"], None, "hint is mapped to 'a' already"),
        (["set.jsonl"], ["questoin=q"], None, "did you mean 'question'?"),
        (["set.jsonl"], ["hint=questoin"], None, "did you mean 'question'?"),
        (["set.jsonl"], [], "jsnl", "did you mean 'jsonl'?"),
    ],
)
def test_mistaken_options_are_config_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], fields: list[str], format_name: str | None, message: str
) -> None:
    write(tmp_path, [{"question": "a?"}])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        inspect(*paths, fields=fields, format_name=format_name)
    assert message in str(caught.value)


def test_unreadable_file_is_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, [{"question": "a?"}])

    def refuse(_: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("producer.datasets.registry._open_once", refuse)
    with pytest.raises(ConfigError, match="cannot be read"):
        inspect(path)
