"""Print an evaluation to a terminal: a table if it fits, else plain lines."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from common.sample_codes import ADVICE
from producer.evaluation.evaluate import DatasetScores, Evaluation

ABSENT = "–"

# Long headings are split into two lines, so that a table of two datasets of a thousand samples fits into 80 columns.
_HEADINGS = ("n", "accuracy\n(95 % interval)", "first\nattempt", "invalid\nrate", "failed", "unprocessed", "coverage")
_PLAIN_HEADINGS = ("n", "accuracy", "first attempt", "invalid rate", "failed", "unprocessed", "coverage")
_NATURAL_WIDTH = 1000  # columns; wide enough that a table is measured at its natural width


def print_scores(evaluation: Evaluation, console: Console) -> None:
    """Print an evaluation: its scores, notes that explain them, and the causes of failed samples."""
    table = scores_table(evaluation)
    natural = console.measure(table, options=console.options.update(max_width=_NATURAL_WIDTH)).maximum
    if natural <= console.width:
        console.print(table)
    else:
        _print_lines(console, _title(evaluation), *_score_lines(evaluation), "")
    _print_lines(console, *_notes(evaluation))
    if failures := format_failures(evaluation):
        _print_lines(console, "", *failures)


def scores_table(evaluation: Evaluation) -> Table:
    """Return a table with one row per dataset. With several datasets, the last row covers all samples."""
    table = Table(title=_title(evaluation), title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("dataset", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, no_wrap=True, justify="right")
    for row in _rows(evaluation):
        table.add_row(row.dataset, *_cells(row), style="bold" if row is evaluation.overall else None)
    return table


def format_failures(evaluation: Evaluation) -> list[str]:
    """Return a heading and one line for each error code, the most frequent first, with its count and advice."""
    failures = evaluation.overall.failures
    if not failures:
        return []
    code_width, count_width = max(map(len, failures)), len(str(max(failures.values())))
    lines = (f"  {code:<{code_width}}  {count:>{count_width}}  {ADVICE.get(code, '')}".rstrip() for code, count in failures.items())
    return ["failed samples by error code:", *lines]


def _title(evaluation: Evaluation) -> str:
    return f"Scores of {evaluation.model}, run {evaluation.run_id}, convention {evaluation.convention}"


def _rows(evaluation: Evaluation) -> list[DatasetScores]:
    return [*evaluation.datasets, evaluation.overall] if len(evaluation.datasets) > 1 else [*evaluation.datasets]


def _cells(row: DatasetScores) -> Iterator[str]:
    """Yield a row's numbers in the order of the headings."""
    yield str(row.n)
    yield _format_accuracy(row)
    yield _format_rate(row.first_attempt_accuracy)
    yield _format_rate(row.invalid_rate)
    yield str(row.failed)
    yield str(row.unprocessed)
    yield _format_rate(row.coverage)


def _score_lines(evaluation: Evaluation) -> Iterator[str]:
    """Yield the table's rows as lines of at most 80 columns."""
    for row in _rows(evaluation):
        pairs = [f"{heading} {cell}" for heading, cell in zip(_PLAIN_HEADINGS, _cells(row), strict=True)]
        yield from (row.dataset, "  " + ", ".join(pairs[:3]), "  " + ", ".join(pairs[3:]))


def _notes(evaluation: Evaluation) -> Iterator[str]:
    """Yield the notes that explain the scores."""
    total = evaluation.overall
    yield (
        "n is the number of samples that have a target and the status 'ok' or 'invalid'. Invalid samples count as wrong; failed "
        "and unprocessed samples are not included in n."
    )
    if total.retried:
        counted = '"first attempt" counts only correct answers that were accepted at the first attempt'
        yield f"retried: {total.retried} (more than one attempt; {counted})"
    if total.no_answer:
        yield f"no answer: {total.no_answer} (status 'ok', but no answer could be extracted; counted as wrong)"
    if total.unscored:
        yield f"unscored: {total.unscored} (answered, but the dataset does not give a target)"
    if total.unprocessed:
        yield f"unprocessed: {total.unprocessed} of {total.rows} (no outcome yet: these scores are preliminary)"


def _format_accuracy(row: DatasetScores) -> str:
    if row.interval is None:
        return ABSENT
    low, high = row.interval
    return f"{_format_rate(row.accuracy)} [{low:.3f}, {high:.3f}]"


def _format_rate(rate: float | None) -> str:
    """Return a rate with three decimals.

    A rate that would round to 0 or 1 but is not exactly 0 or 1 is shown as <0.001 or >0.999.
    """
    if rate is None:
        return ABSENT
    if 0 < rate < 0.0005:
        return "<0.001"
    return ">0.999" if 0.9995 <= rate < 1 else f"{rate:.3f}"


def _print_lines(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, emoji=False)
