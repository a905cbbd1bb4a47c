"""List literals in table cells: read as written, and never misread."""

import ast
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.datasets.values.literals import is_unclear_list, read_answers, read_literal, read_texts

TEXTS = st.lists(st.text(max_size=20), min_size=1, max_size=8)


@given(TEXTS)
def test_list_literal_of_texts_is_read_back(texts: list[str]) -> None:
    assert read_literal(repr(texts)) == texts
    assert read_texts(f" {texts!r}\n") == texts


@given(TEXTS)
def test_json_list_of_texts_is_read_back(texts: list[str]) -> None:
    assert read_literal(json.dumps(texts)) == texts
    assert read_literal(json.dumps(texts, ensure_ascii=False)) == texts


@given(st.dictionaries(st.text(max_size=5), TEXTS, max_size=4))
def test_object_literal_is_read_back(texts: dict[str, list[str]]) -> None:
    assert read_literal(repr(texts)) == texts
    assert read_literal(json.dumps(texts)) == texts


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    for one in (text, f"[{text}]", f"{{{text}}}", f"['{text}']"):
        assert isinstance(read_literal(one), list | dict | None)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("[0.50, 1e3, 007.]", ["0.50", "1e3", "007."]),
        ("[0.50, 1E3, -7]", ["0.50", "1E3", "-7"]),
        ("['a', 0.10, -3]", ["a", "0.10", "-3"]),
        ("['a', None, True]", ["a", None, True]),
        ('["a", null, true]', ["a", None, True]),
        (r"['\d', '[x]', 'it\'s']", [r"\d", "[x]", "it's"]),
        ("['a',\n 'b']", ["a", "b"]),
        ("{'A': 'x', 'B': 'y'}", {"A": "x", "B": "y"}),
        ("[('a', 'b')]", [["a", "b"]]),
        ("[]", []),
    ],
)
def test_literal_keeps_its_values_as_written(text: str, read: Any) -> None:
    assert read_literal(text) == read


@pytest.mark.parametrize(
    "text",
    [
        "", "cat", "[red", "[red]", "red]", "('a', 'b')", "['a' 'b']", "['a'\n 'b']", "array(['a'])", "[f'a']", "[b'a']",
        "['a', x]", "[print()]", "{'A': 'x', 'A': 'y'}", "['a'] ['b']", "[1 + 1]", "[nan]", "['a',, 'b']", "{[1]: 2}",
        "[{(1, 2): 3}]", "{{}: 1}", "[" * 5000 + "]" * 5000,
    ],
)  # fmt: skip
def test_other_text_is_no_literal(text: str) -> None:
    assert read_literal(text) is None


@pytest.mark.parametrize("text", ["[0, 1]", "[]", "['a', 1]", "['a', None]", "{'A': 'x'}"])
def test_list_of_other_values_is_no_list_of_texts(text: str) -> None:
    assert read_texts(text) is None


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("['a', 'b']", ["a", "b"]),
        (' ["a", "b"]\n', ["a", "b"]),
        ("['a', 1, True, None]", ["a", "1", True, None]),
        ("[{'answer': 'a', 'answer_confidence': 'yes'}]", [{"answer": "a", "answer_confidence": "yes"}]),
    ],
)
def test_list_of_answers_is_read(text: str, answers: list[Any]) -> None:
    assert read_answers(text) == answers
    assert not is_unclear_list(text)


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "[1]", "[1, 2]", "[[1, 2], [3, 4]]", "[True]", "[None]", "[{'name': 'a'}]", "['a', ['b']]", "['a' 'b']", "[a, b]"),
        *("('a', 'b')", "{'a', 'b'}", "{'A': 'a'}"),
    ],
)
def test_unclear_list_is_one_answer(text: str) -> None:
    assert read_answers(text) is None
    assert is_unclear_list(text)


@pytest.mark.parametrize("text", ["", "a", "(A)", "(1, 2)", "{x}", "[", "a [b]", "['a'] or ['b'].", "\\frac{1}{2}"])
def test_other_text_is_one_clear_answer(text: str) -> None:
    assert read_answers(text) is None
    assert not is_unclear_list(text)


def test_threads_change_the_filters_of_warnings_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, parse, met = Barrier(2, timeout=0.5), ast.parse, []

    def parse_together(text: str, *, mode: str) -> Any:
        with suppress(BrokenBarrierError):
            meeting.wait()
            met.append(text)
        return parse(text, mode=mode)

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as threads:
        patch.setattr(ast, "parse", parse_together)
        read = list(threads.map(read_literal, [r"['\d']", r"['\w']"]))
    assert (read, met) == ([[r"\d"], [r"\w"]], [])
