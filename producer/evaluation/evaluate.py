"""Evaluate a run: compute the scores and counts of each dataset in one pass over the outcomes (``docs/conventions.md``)."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from common.errors import IntegrityError
from common.records import Outcome, Record, Status
from common.storage.run_record import read_run
from common.storage.store import Store
from producer.evaluation.metrics import mean_or_none, wilson_interval
from producer.evaluation.scorers import CONVENTION, score_outcome

OVERALL = "all"
_REACHED: tuple[str, ...] = get_args(Status)


class DatasetScores(Record):
    """The scores and counts of one dataset, or of the whole run.

    It is always true that ``rows = ok + invalid + failed + unprocessed`` and ``n + unscored = ok + invalid``. A rate is
    ``None`` if its denominator is 0.

    - ``n`` counts the ``ok`` and ``invalid`` rows that have a target. Both accuracies are relative to ``n``.
    - ``hits`` counts the correct answers.
    - ``interval`` is the 95 % Wilson interval of the accuracy.
    - ``first_attempt_hits`` counts the correct answers that were accepted at the first attempt.
    - ``retried`` counts the rows with more than one attempt.
    - ``no_answer`` counts the ``ok`` rows within ``n`` without an extractable answer. They count as wrong.
    - ``failures`` counts the ``failed`` rows by error code.
    """

    dataset: str
    rows: int
    ok: int
    invalid: int
    failed: int
    unprocessed: int
    n: int
    hits: int
    accuracy: float | None
    interval: tuple[float, float] | None
    first_attempt_hits: int
    first_attempt_accuracy: float | None
    invalid_rate: float | None
    coverage: float | None
    retried: int
    unscored: int
    no_answer: int
    failures: dict[str, int]


class Evaluation(Record):
    """The scores of a run under one convention. ``overall`` pools the samples of all datasets (micro average)."""

    run_id: str
    model: str
    convention: str
    datasets: tuple[DatasetScores, ...]
    overall: DatasetScores


def evaluate_run(run_id: str, store: Store, outcomes: Iterable[Outcome]) -> Evaluation:
    """Score the collected ``outcomes`` of a planned run. Raises ``ConfigError`` if the store does not have the run."""
    spec, plan = read_run(store, run_id)
    return evaluate_outcomes(run_id, spec.model.name, outcomes, plan.result_rows)


def evaluate_outcomes(run_id: str, model: str, outcomes: Iterable[Outcome], rows: Mapping[str, int]) -> Evaluation:
    """Score the outcomes of a run in one pass, in constant memory.

    ``outcomes`` contains each row at most once. ``rows`` maps each dataset to its number of rows. Rows without an outcome, or with
    the collector's ``unprocessed`` placeholder, count as ``unprocessed``. Raises ``IntegrityError`` for an outcome of a dataset
    that is not in ``rows``, and if a dataset has more outcomes than rows.
    """
    counts: dict[str, Counter[str]] = {dataset: Counter() for dataset in rows}
    failures: dict[str, Counter[str]] = {dataset: Counter() for dataset in rows}
    for outcome in outcomes:
        if outcome.status not in _REACHED:
            continue
        if outcome.dataset not in counts:
            raise IntegrityError(
                f"sample {outcome.sample_id}: run {run_id} has no dataset {outcome.dataset!r}; expected one of {', '.join(rows)}"
            )
        counts[outcome.dataset].update(_facts_of(outcome))
        if outcome.status == "failed":
            failures[outcome.dataset][outcome.error_code or "unknown"] += 1
    for dataset, expected in rows.items():
        if counts[dataset]["seen"] > expected:
            raise IntegrityError(f"run {run_id}: {counts[dataset]['seen']} outcomes for the {expected} rows of dataset {dataset!r}")
    return Evaluation(
        run_id=run_id,
        model=model,
        convention=CONVENTION,
        datasets=tuple(_scores_of(dataset, rows[dataset], counts[dataset], failures[dataset]) for dataset in rows),
        overall=_scores_of(OVERALL, sum(rows.values()), _total(counts), _total(failures)),
    )


def _facts_of(outcome: Outcome) -> Iterator[str]:
    """Yield the name of each count that this outcome increments."""
    yield "seen"
    yield outcome.status
    answered = [attempt for attempt in outcome.attempts if attempt.finish_reason != "error"]  # skip failed waves
    is_retried = len(answered) > 1 or any(turn.attempts > 1 for turn in outcome.turns)
    if is_retried:
        yield "retried"
    if outcome.status == "failed":
        return
    score = score_outcome(outcome)
    if score is None:
        yield "unscored"
        return
    yield "n"
    if outcome.status == "ok" and outcome.answer is None:
        yield "no_answer"
    if score == 1.0:
        yield "hits"
        if len(answered) == 1 and not is_retried:
            yield "first_attempt_hits"


def _scores_of(dataset: str, rows: int, counts: Counter[str], failures: Counter[str]) -> DatasetScores:
    answered, n, hits = counts["ok"] + counts["invalid"], counts["n"], counts["hits"]
    return DatasetScores(
        dataset=dataset,
        rows=rows,
        ok=counts["ok"],
        invalid=counts["invalid"],
        failed=counts["failed"],
        unprocessed=rows - counts["seen"],
        n=n,
        hits=hits,
        accuracy=mean_or_none(hits, n),
        interval=wilson_interval(hits, n),
        first_attempt_hits=counts["first_attempt_hits"],
        first_attempt_accuracy=mean_or_none(counts["first_attempt_hits"], n),
        invalid_rate=mean_or_none(counts["invalid"], answered),
        coverage=mean_or_none(answered, rows),
        retried=counts["retried"],
        unscored=counts["unscored"],
        no_answer=counts["no_answer"],
        failures=dict(failures.most_common()),
    )


def _total(counters: Mapping[str, Counter[str]]) -> Counter[str]:
    return sum(counters.values(), Counter())
