"""Questions that are lists of turns, as in VLMEvalKit's multi-turn datasets, become conversations if the turns are asked."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.records import Sample
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from producer.datasets.survey import survey_dataset
from producer.datasets.survey.facts import collect_facts


def make_source(folder: Path, row: dict[str, Any], *, asks_turns: bool = True) -> DatasetSource:
    for name in ("a", "b"):
        Image.new("RGB", (4, 4), "red" if name == "a" else "blue").save(folder / f"{name}.png")
    (folder / "rows.jsonl").write_text(json.dumps({"id": "7", **row}) + "\n")
    return DatasetSource(path=str(folder / "rows.jsonl"), media_root=str(folder), asks_turns=asks_turns)


def read(folder: Path, row: dict[str, Any], **source: bool) -> Sample:
    (sample,) = read_dataset(survey_dataset(make_source(folder, row, **source)).source)
    return sample


def show(sample: Sample) -> list[tuple[str, tuple[str | int, ...]]]:
    assert sample.fault is None, sample.fault.message
    return [(message.role, message.content) for message in sample.messages]


ONE, TWO = ("user", ("One?",)), ("user", ("Two?",))
FORMS: dict[str, tuple[dict[str, Any], list[tuple[str, tuple[str | int, ...]]], tuple[str, ...]]] = {
    "lists": ({"question": ["One?", "Two?"], "answer": ["1", "2"]}, [ONE, ("assistant", ("1",)), TWO], ("2",)),
    "literals": ({"question": "['One?', 'Two?']", "answer": "['1', '2']"}, [ONE, ("assistant", ("1",)), TWO], ("2",)),
    "numbers": ({"question": ["One?", "Two?"], "answer": "[0.50, 2]"}, [ONE, ("assistant", ("0.50",)), TWO], ("2",)),
    "no answers": ({"question": ["One?", "Two?"]}, [ONE, TWO], ()),
    "blank answers": ({"question": ["One?", "Two?"], "answer": " "}, [ONE, TWO], ()),
    "unknown answers": ({"question": ["One?", "Two?"], "answer": ["", None]}, [ONE, ("assistant", ()), TWO], ()),
    "last answer only": ({"question": ["One?", "Two?"], "answer": ["", "2"]}, [ONE, ("assistant", ()), TWO], ("2",)),
    "one turn": ({"question": ["One?"], "answer": ["1"]}, [ONE], ("1",)),
    "media first": ({"question": ["One?", "Two?"], "image": "a.png"}, [("user", (0, "One?")), TWO], ()),
    "media in place": (
        {"question": ["See <ImageHere>.", "<ImageHere>?"], "image": ["a.png", "b.png"]},
        [("user", ("See ", 0, ".")), ("user", (1, "?"))],
        (),
    ),
    "our markers": (
        {"question": ["See <image 2>.", "<image 1>?"], "image": ["a.png", "b.png"]},
        [("user", ("See ", 1, ".")), ("user", (0, "?"))],
        (),
    ),
    "question as text": ({"question": "One?", "answer": ["1", "2"]}, [], ("1", "2")),
}


@pytest.mark.parametrize(("row", "messages", "target"), FORMS.values(), ids=FORMS)
def test_list_of_turns_is_read(
    tmp_path: Path, row: dict[str, Any], messages: list[tuple[str, tuple[str | int, ...]]], target: tuple[str, ...]
) -> None:
    sample = read(tmp_path, row)
    assert show(sample) == messages
    assert sample.target == target


def test_options_belong_to_the_last_turn(tmp_path: Path) -> None:
    sample = read(tmp_path, {"question": ["One?", "Which?"], "answer": ["1", "red"], "options": ["blue", "red"]})
    assert (sample.kind, sample.target, sample.question) == ("multiple_choice", ("B",), "Which?")


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "fewer answers": ({"answer": ["1"]}, "found 2 turns in the question and 1 answers; expected one answer for each turn"),
    "text as answer": ({"answer": "red"}, "found 'red' (text); expected a list of 2 answers, one for each turn"),
    "number as answer": ({"answer": 3}, "found 3 (a number); expected a list of 2 answers"),
    "object as answer": ({"answer": [{"a": 1}, "2"]}, "found {'a': 1} (an object); expected text, a number, true or false"),
    "marker without media": ({"question": ["See <ImageHere>.", "Two?"]}, "has no image, because the row has 0"),
    "empty turn": ({"question": ["", "Two?"]}, "turn 1 is empty; expected a text or media"),
}


@pytest.mark.parametrize(("row", "message"), FAULTS.values(), ids=FAULTS)
def test_unusable_list_is_a_fault_of_its_field(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    sample = read(tmp_path, {"question": ["One?", "Two?"], **row})
    assert sample.fault is not None
    assert sample.fault.code == "bad_field"
    assert sample.fault.message.startswith("rows.jsonl: line 1: field 'question': ")
    assert message in sample.fault.message


def test_list_of_turns_is_a_fault_without_asking(tmp_path: Path) -> None:
    sample = read(tmp_path, {"question": "['One?', 'Two?']"}, asks_turns=False)
    assert sample.fault is not None
    assert "found a list of 2 turns" in sample.fault.message
    assert "prompt: {multi_turn: ask}" in sample.fault.message


def test_columns_of_turns_and_answers_are_used(tmp_path: Path) -> None:
    facts = collect_facts(make_source(tmp_path, {"question": ["One?", "Two?"], "answer": ["1", "2"], "note": "x"}))
    assert {ours: theirs for ours, theirs in facts.mapped if theirs} == {"id": "id", "messages": "question", "target": "answer"}
    assert (facts.turns.several, facts.turns.written, facts.turns.listed) == (1, 1, 0)
