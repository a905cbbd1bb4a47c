"""Options and multiple-choice targets: letters, texts and positions are never confused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SampleError
from producer.datasets.values.choices import to_letters, to_options
from tests.support.datasets import read_rows

TEXTS = st.lists(st.text(min_size=1, max_size=9).filter(lambda text: bool(text.strip())), min_size=1, max_size=26)


@given(TEXTS)
def test_list_literal_gives_the_options_as_written(texts: list[str]) -> None:
    assert list(to_options(repr(texts)).values()) == list(to_options(json.dumps(texts)).values()) == texts


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("['cat', 'dog']", {"A": "cat", "B": "dog"}),
        ('["cat", "dog"]', {"A": "cat", "B": "dog"}),
        ("[0.50, 1e3, 007.]", {"A": "0.50", "B": "1e3", "C": "007."}),
        ("['None', 'NA', 'nan', 'null', '007']", {"A": "None", "B": "NA", "C": "nan", "D": "null", "E": "007"}),
        ("['x', None, 'y']", {"A": "x", "C": "y"}),
        ("{'B': 'x', 'A': 'y'}", {"B": "x", "A": "y"}),
        ("[]", {}),
        (" ", {}),
        ("None", {}),
        ("nan", {}),
    ],
)
def test_options_are_read_from_text(value: str, options: dict[str, str]) -> None:
    assert to_options(value) == options


@pytest.mark.parametrize("value", ["cat, dog", "['cat' 'dog']", "['cat', dog]", "A. cat\nB. dog", 7])
def test_other_options_are_a_bad_field(value: Any) -> None:
    with pytest.raises(SampleError, match="expected a mapping of letters to texts, or a list of texts"):
        to_options(value)


CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "position in a list": ({"choices": ["cat", "dog"], "answer": 1}, ("B",)),
    "position 0": ({"choices": ["cat", "dog"], "answer": 0}, ("A",)),
    "position in a list literal": ({"choices": "['cat', 'dog']", "answer": 1}, ("B",)),
    "two positions": ({"choices": ["cat", "dog", "cow"], "answer": [0, 2]}, ("A", "C")),
    "position after an absent option": ({"choices": ["cat", None, "cow"], "answer": 2}, ("C",)),
    "number that is only a text": ({"choices": ["10", "20"], "answer": 20}, ("B",)),
    "number that is position and text of one option": ({"choices": ["0", "1"], "answer": 1}, ("B",)),
    "text of an option": ({"choices": ["cat", "dog"], "answer": "dog"}, ("B",)),
    "letter": ({"choices": ["cat", "dog"], "answer": "B"}, ("B",)),
    "bool as the text of an option": ({"choices": ["No", "Yes"], "answer": True}, ("B",)),
    "text of a number": ({"choices": ["1", "2"], "answer": "1"}, ("A",)),
    "number with options by letter": ({"options": {"A": "1", "B": "2"}, "answer": 2}, ("B",)),
    "mapped position": ({"choices": ["1", "2", "3"], "label": 1, "target_index": "label"}, ("B",)),
    "mapped position as text": ({"choices": ["1", "2", "3"], "label": "1", "target_index": "label"}, ("B",)),
    "mapped positions": ({"choices": ["1", "2", "3"], "label": "[0, 2]", "target_index": "label"}, ("A", "C")),
    "letter that is its own text": ({"choices": ["A", "B", "C"], "answer": "B"}, ("B",)),
    "letter by letter": ({"options": {"A": "B", "B": "A"}, "answer": "B"}, ("B",)),
    "no target": ({"choices": ["cat", "dog"]}, ()),
}

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "position and other text": (
        {"choices": ["1", "2", "3"], "answer": 1},
        "found 1, which is the position of option B (counted from 0) and the text of option A",
    ),
    "letter and other text": (
        {"choices": ["B", "A", "C"], "answer": "A"},
        "found 'A', which is the letter of one option and the text of option B; expected one meaning",
    ),
    "letter and other text in a literal": ({"choices": "['C', 'A']", "answer": "A"}, "and the text of option B"),
    "position too high": ({"choices": ["cat", "dog"], "answer": 2}, "found 2; expected the position of an option from 0 to 1"),
    "negative position": ({"choices": ["cat", "dog"], "answer": -1}, "found -1; expected the position of an option from 0 to 1"),
    "position of an absent option": ({"choices": ["cat", "", "cow"], "answer": 1}, "found 1; expected the position of an option"),
    "number as text": ({"choices": ["cat", "dog"], "answer": "1"}, "found '1'; expected one of the letters A, B"),
    "position by letter": (
        {"options": {"A": "x", "B": "y"}, "answer": 1},
        "found '1'; expected one of the letters A, B",
    ),
    "fraction": ({"choices": ["cat", "dog"], "answer": 1.0}, "found '1.0'; expected one of the letters A, B"),
    "mapped letter": ({"choices": ["cat", "dog"], "label": "B", "target_index": "label"}, "expected the position of an option"),
    "mapped position too high": (
        {"choices": ["cat", "dog"], "label": 2, "target_index": "label"},
        "found 2; expected the position",
    ),
}


def read_one(folder: Path, row: dict[str, Any]) -> Any:
    fields = {"target_index": mapped} if (mapped := row.pop("target_index", None)) else {}
    (sample,) = read_rows(folder, {"question": "Which?", **row}, fields=fields)
    return sample


@pytest.mark.parametrize(("row", "letters"), CASES.values(), ids=CASES)
def test_target_becomes_letters(tmp_path: Path, row: dict[str, Any], letters: tuple[str, ...]) -> None:
    sample = read_one(tmp_path, dict(row))
    assert (sample.kind, sample.target, sample.fault) == ("multiple_choice", letters, None)


@pytest.mark.parametrize(("row", "message"), FAULTS.values(), ids=FAULTS)
def test_unclear_target_is_a_named_fault(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    sample = read_one(tmp_path, dict(row))
    assert sample.fault.code == "bad_field"
    assert message in sample.fault.message


@given(st.lists(st.integers(0, 30), min_size=1, max_size=26, unique=True), st.integers(-3, 30))
def test_number_is_never_read_as_two_options(numbers: list[int], target: int) -> None:
    """A whole number gives one letter only if its position and its text do not name two options."""
    options = to_options(numbers)
    by_text = [letter for letter, text in options.items() if text == str(target)]
    by_position = [chr(65 + target)] if 0 <= target < len(numbers) else []
    meant = {*by_text, *by_position}
    if len(meant) == 1:
        assert to_letters(target, options, are_listed=True) == tuple(meant)
    else:
        with pytest.raises(SampleError):
            to_letters(target, options, are_listed=True)


def test_letter_columns_are_options_in_every_format(tmp_path: Path) -> None:
    rows = [
        {"question": "Which?", "A": "cat", "B": "dog", "C": "", "answer": "B"},
        {"question": "Why?", "A": "n", "answer": "x"},
    ]
    first, second = read_rows(tmp_path, *rows)
    assert (first.options, first.target, first.metadata) == ({"A": "cat", "B": "dog"}, ("B",), {})
    assert (second.options, second.target, second.metadata) == ({}, ("x",), {"A": "n"})


@pytest.mark.parametrize(
    ("letters", "options"),
    [
        ({"A": 3, "B": 4}, {"A": "3", "B": "4"}),
        ({"A": "x", "B": 0.5}, {"A": "x", "B": "0.5"}),
        ({"A": "x", "B": None, "C": "z"}, {"A": "x", "C": "z"}),
        ({"A": None, "B": "y", "C": None}, {"B": "y"}),
    ],
)
def test_letter_columns_may_hold_numbers_and_null(tmp_path: Path, letters: dict[str, Any], options: dict[str, str]) -> None:
    (sample,) = read_rows(tmp_path, {"question": "Which?", **letters})
    assert (sample.kind, sample.options, sample.metadata) == ("multiple_choice", options, {})
