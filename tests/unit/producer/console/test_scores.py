"""The output of an evaluation at several terminal widths."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from producer.console.scores import format_failures, print_scores, scores_table
from producer.evaluation.evaluate import DatasetScores, Evaluation

EMPTY = DatasetScores(
    dataset="empty",
    rows=0,
    ok=0,
    invalid=0,
    failed=0,
    unprocessed=0,
    n=0,
    hits=0,
    accuracy=None,
    interval=None,
    first_attempt_hits=0,
    first_attempt_accuracy=None,
    invalid_rate=None,
    coverage=None,
    retried=0,
    unscored=0,
    no_answer=0,
    failures={},
)


def make_scores(dataset: str, **fields: Any) -> DatasetScores:
    scored = {"rows": 512, "ok": 494, "invalid": 6, "failed": 7, "unprocessed": 5, "n": 500, "hits": 484, "accuracy": 0.968}
    rates = {"interval": (0.9486, 0.9802), "first_attempt_accuracy": 0.951, "invalid_rate": 0.012, "coverage": 500 / 512}
    return EMPTY.model_copy(update={"dataset": dataset, **scored, **rates, **fields})


def make_evaluation(*datasets: DatasetScores, **overall: Any) -> Evaluation:
    return Evaluation(run_id="7f3a", model="tiny", convention="strict", datasets=datasets, overall=make_scores("all", **overall))


def show(evaluation: Evaluation, *, width: int, terminal: bool = True) -> str:
    stream = io.StringIO()
    print_scores(evaluation, Console(file=stream, width=width, force_terminal=terminal, color_system=None))
    return stream.getvalue()


TWO = make_evaluation(make_scores("digits"), make_scores("shapes"))


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_shows_datasets_and_overall_row(width: int) -> None:
    shown = show(TWO, width=width)
    for dataset in ("digits", "shapes", "all"):
        assert re.search(rf"{dataset} +500 +0\.968 \[0\.949, 0\.980\] +0\.951 +0\.012 +7 +5 +0\.977", shown)
    assert "convention strict" in shown


@pytest.mark.parametrize(("width", "terminal"), [(70, True), (40, False)])
def test_plain_lines_replace_a_wide_table(width: int, terminal: bool) -> None:
    shown = " ".join(show(TWO, width=width, terminal=terminal).split())
    numbers = "accuracy 0.968 [0.949, 0.980], first attempt 0.951 invalid rate 0.012, failed 7, unprocessed 5, coverage 0.977"
    for dataset in ("digits", "shapes", "all"):
        assert f"{dataset} n 500, {numbers}" in shown


@pytest.mark.parametrize("width", [66, 80, 100, 120])
@pytest.mark.parametrize("terminal", [True, False])
def test_lines_fit_width_and_keep_all_digits(width: int, terminal: bool) -> None:
    large = make_scores("a-dataset-with-a-very-long-name", n=1_000_000, failed=100_000, unprocessed=1_000_000)
    shown = show(make_evaluation(large, make_scores("digits"), n=1_000_500), width=width, terminal=terminal)
    assert all(len(line) <= width for line in shown.splitlines())
    assert shown.count("0.968 [0.949, 0.980]") == 3
    assert "…" not in shown
    assert "1000500" in shown


def test_missing_values_are_shown_as_dashes() -> None:
    shown = show(make_evaluation(EMPTY), width=100)
    assert re.search(r"empty +0 +– +– +– +0 +0 +–", shown)
    assert "nan" not in shown.lower()
    assert "None" not in shown


def test_single_dataset_omits_overall_row() -> None:
    assert scores_table(make_evaluation(make_scores("digits"))).row_count == 1


def test_rates_near_0_and_1_are_not_rounded() -> None:
    shown = show(make_evaluation(make_scores("digits", coverage=0.99999, invalid_rate=0.00001)), width=100)
    assert ">0.999" in shown
    assert "<0.001" in shown


def test_notes_count_samples_outside_the_scores() -> None:
    shown = show(make_evaluation(make_scores("d"), retried=7, no_answer=4, unscored=3, unprocessed=12), width=200)
    for note in ("retried: 7 (", "no answer: 4 (", "unscored: 3 (", "unprocessed: 12 of 512 ("):
        assert note in shown


def test_complete_run_prints_one_note() -> None:
    shown = show(make_evaluation(make_scores("d"), unprocessed=0), width=200)
    assert "n is the number of samples that have a target" in shown
    for note in ("retried:", "no answer:", "unscored:", "preliminary", "error code"):
        assert note not in shown


def test_failures_are_listed_by_code_with_advice() -> None:
    heading, corrupt, memory = format_failures(make_evaluation(failures={"some_code": 30, "out_of_memory": 2}))
    assert heading == "failed samples by error code:"
    assert corrupt == "  some_code      30"
    assert memory.startswith("  out_of_memory   2  the sample did not fit")


def test_run_without_failures_has_empty_failure_list() -> None:
    assert format_failures(make_evaluation(make_scores("d"))) == []


def test_markup_in_text_is_not_interpreted() -> None:
    shown = show(make_evaluation(make_scores("d"), failures={"[red]odd[/red]:x:": 1}), width=120)
    assert "[red]odd[/red]:x:" in shown
