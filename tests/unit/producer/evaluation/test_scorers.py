"""The strict convention: hits, misses and samples without a score."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.records import Outcome
from producer.evaluation.scorers import is_match, score_outcome


def make_outcome(**fields: Any) -> Outcome:
    return Outcome(**{"sample_id": "s1", "dataset": "d", "index": 1, "model": "tiny", "status": "ok", **fields})


def test_answer_equal_to_any_target_is_hit() -> None:
    assert score_outcome(make_outcome(answer="grey", target=("gray", "grey"))) == 1.0


def test_answer_that_differs_from_targets_is_miss() -> None:
    assert score_outcome(make_outcome(answer="blue", target=("gray", "grey"))) == 0.0


def test_answer_that_only_contains_target_is_miss() -> None:
    assert score_outcome(make_outcome(answer="light grey", target=("grey",))) == 0.0


def test_ok_sample_without_answer_is_miss() -> None:
    assert score_outcome(make_outcome(answer=None, prediction="Let me think.", target=("A",))) == 0.0


def test_invalid_sample_with_right_text_is_miss() -> None:
    assert score_outcome(make_outcome(status="invalid", answer="A", prediction="A", target=("A",))) == 0.0


@pytest.mark.parametrize("status", ["ok", "invalid", "failed"])
def test_sample_without_target_is_not_scored(status: str) -> None:
    assert score_outcome(make_outcome(status=status, answer="A")) is None


def test_failed_sample_is_not_scored() -> None:
    assert score_outcome(make_outcome(status="failed", target=("A",), error_code="media_corrupt")) is None


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [("3", "3.0"), ("1,000", "1000"), ("-5", "\N{MINUS SIGN}5"), (".5", "0.50"), ("1e3", "1000"), (" 7 ", "7."), ("0.1", "0.10")],
)
def test_two_numbers_match_by_value(answer: str, accepted: str) -> None:
    assert is_match(answer, accepted)
    assert is_match(accepted, answer)


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [("5", "-5"), ("1.5", "15"), ("10", "1"), ("0.30000000000000001", "0.3"), ("1,00", "100"), ("50%", "50"), ("1e-3", "1e3")],
)
def test_numbers_of_different_value_do_not_match(answer: str, accepted: str) -> None:
    assert not is_match(answer, accepted)
    assert not is_match(accepted, answer)


@pytest.mark.parametrize(("answer", "accepted"), [("Yes", "yes"), ("b", "B"), ("  red ", "red"), ("A cat.", "cat"), ("three", "3")])
def test_text_is_compared_after_normalization(answer: str, accepted: str) -> None:
    assert is_match(answer, accepted)


def test_punctuation_alone_matches_only_itself() -> None:
    assert is_match(" ?", "?")
    assert not is_match("...", "?")
    assert not is_match("?", "")


@given(st.integers(), st.integers())
def test_integers_match_exactly_when_they_are_equal(one: int, other: int) -> None:
    assert is_match(str(one), f"{other:,}") is (one == other)


@given(st.text())
def test_every_text_matches_itself(text: str) -> None:
    assert is_match(text, text)
