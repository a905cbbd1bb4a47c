"""Scores and counts of constructed outcomes have exact expected values."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, IntegrityError
from common.records import Attempt, DatasetCounts, Outcome, Plan, Status, TurnAnswer
from common.spec.models import Chunks, DatasetSource, ModelProfile, RunSpec, SamplingParams, Shuffle, Validation
from common.storage.keys import run_key
from common.storage.run_record import encode_run
from common.storage.store import open_store
from producer.evaluation.evaluate import DatasetScores, Evaluation, evaluate_outcomes, evaluate_run
from producer.evaluation.metrics import wilson_interval


def make_outcome(dataset: str, status: Status = "ok", attempts: int = 1, **fields: Any) -> Outcome:
    tried = tuple(Attempt(number=number, response="…") for number in range(1, attempts + 1))
    return Outcome(sample_id="s", dataset=dataset, index=1, model="tiny", status=status, attempts=tried, **fields)


def make_hit(dataset: str, attempts: int = 1) -> Outcome:
    return make_outcome(dataset, attempts=attempts, answer="A", target=("A",))


def make_miss(dataset: str, attempts: int = 1) -> Outcome:
    return make_outcome(dataset, attempts=attempts, answer="B", target=("A",))


def make_failure(dataset: str, code: str, attempts: int = 0) -> Outcome:
    return make_outcome(dataset, "failed", attempts, target=("A",), error_code=code, error_message="…")


MIXED = [
    *(make_hit("mixed") for _ in range(4)),
    *(make_hit("mixed", attempts=3) for _ in range(2)),
    make_miss("mixed"),
    make_miss("mixed", attempts=2),
    make_outcome("mixed", answer=None, target=("A",)),
    *(make_outcome("mixed", "invalid", 4, target=("A",)) for _ in range(3)),
    make_outcome("mixed", answer="A"),
    make_outcome("mixed", "invalid", 4),
    make_failure("mixed", "image_missing"),
    *(make_failure("mixed", "image_corrupt") for _ in range(3)),
    make_failure("mixed", "out_of_memory", attempts=2),
]


def evaluate(outcomes: list[Outcome], **unique: int) -> Evaluation:
    return evaluate_outcomes("r1", "tiny", outcomes, unique)


def test_counts_of_mixed_dataset_are_exact() -> None:
    evaluation = evaluate(MIXED, mixed=25)
    assert evaluation.datasets == (
        DatasetScores(
            dataset="mixed",
            rows=25,
            ok=10,
            invalid=4,
            failed=5,
            unprocessed=6,
            n=12,
            hits=6,
            accuracy=0.5,
            interval=wilson_interval(6, 12),
            first_attempt_hits=4,
            first_attempt_accuracy=4 / 12,
            invalid_rate=4 / 14,
            coverage=14 / 25,
            retried=8,
            unscored=2,
            no_answer=1,
            failures={"image_corrupt": 3, "image_missing": 1, "out_of_memory": 1},
        ),
    )
    assert (evaluation.run_id, evaluation.model, evaluation.convention) == ("r1", "tiny", "strict")


def test_retried_earlier_turn_is_not_a_first_attempt_hit() -> None:
    turns = [[TurnAnswer(number=1, response="…", prediction="…", attempts=attempts)] for attempts in (1, 2)]
    hits = [make_outcome("asked", answer="A", target=("A",), turns=one) for one in turns]
    (scores,) = evaluate(hits, asked=2).datasets
    assert (scores.accuracy, scores.first_attempt_accuracy, scores.retried) == (1.0, 0.5, 1)


def test_conversation_that_ended_early_is_a_miss() -> None:
    ended = make_outcome("asked", "invalid", 2, target=("A",), error_code="turn_unanswered")
    (scores,) = evaluate([make_hit("asked"), ended], asked=2).datasets
    assert (scores.n, scores.accuracy, scores.invalid) == (2, 0.5, 1)


def test_hit_after_retry_is_not_a_first_attempt_hit() -> None:
    scores = evaluate([make_hit("d"), make_hit("d", attempts=2), make_miss("d"), make_miss("d", attempts=2)], d=4).overall
    assert (scores.accuracy, scores.first_attempt_accuracy, scores.retried) == (0.5, 0.25, 2)


def test_overall_pools_samples_of_all_datasets() -> None:
    outcomes = [
        *(make_hit("small") for _ in range(2)),
        *(make_miss("large") for _ in range(8)),
        make_failure("large", "image_corrupt"),
    ]
    overall = evaluate(outcomes, small=3, large=10).overall
    assert (overall.dataset, overall.rows, overall.n, overall.hits, overall.accuracy) == ("all", 13, 10, 2, 0.2)
    assert (overall.ok, overall.failed, overall.unprocessed) == (10, 1, 2)
    assert overall.failures == {"image_corrupt": 1}
    assert overall.interval == wilson_interval(2, 10)


def test_datasets_keep_their_given_order() -> None:
    evaluation = evaluate([make_hit("a"), make_hit("z")], z=1, a=1)
    assert [scores.dataset for scores in evaluation.datasets] == ["z", "a"]


def test_accuracy_is_none_if_all_samples_failed() -> None:
    scores = evaluate([make_failure("d", "image_corrupt"), make_failure("d", "image_corrupt")], d=2).overall
    assert (scores.n, scores.accuracy, scores.interval, scores.first_attempt_accuracy, scores.invalid_rate) == (
        0,
        None,
        None,
        None,
        None,
    )
    assert (scores.failed, scores.coverage, scores.failures) == (2, 0.0, {"image_corrupt": 2})


def test_run_without_outcomes_is_all_unprocessed() -> None:
    scores = evaluate([], d=7).datasets[0]
    assert (scores.unprocessed, scores.n, scores.accuracy, scores.coverage) == (7, 0, None, 0.0)


def test_rates_are_none_without_samples() -> None:
    overall = evaluate([]).overall
    assert (overall.rows, overall.n, overall.accuracy, overall.invalid_rate, overall.coverage) == (0, 0, None, None, None)


def test_dataset_without_targets_is_not_scored() -> None:
    scores = evaluate([make_outcome("d", answer="a dog"), make_outcome("d", "invalid", 4)], d=2).overall
    assert (scores.unscored, scores.n, scores.accuracy, scores.invalid_rate, scores.coverage) == (2, 0, None, 0.5, 1.0)


def test_placeholders_count_as_unprocessed() -> None:
    unprocessed: Any = "unprocessed"  # not a valid status of an outcome
    waiting = Outcome.model_construct(sample_id="s", dataset="d", index="1", model="", status=unprocessed, target=("A",))
    scores = evaluate([make_hit("d"), waiting, waiting], d=3).overall
    assert (scores.unprocessed, scores.ok, scores.n, scores.accuracy, scores.no_answer) == (2, 1, 1, 1.0, 0)


def test_stored_run_is_evaluated_against_its_plan(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    spec = RunSpec(
        model=ModelProfile(name="small", engine="echo"),
        datasets=(DatasetSource(path="d.jsonl"),),
        generation=SamplingParams(),
        validation=Validation(),
        shuffle=Shuffle(),
        chunks=Chunks(),
    )
    counts = DatasetCounts(name="d", rows=5, unique=4, duplicates=1)
    plan = Plan(run_id=spec.run_id, samples=4, chunks=1, datasets=(counts,))
    store.put(run_key(spec.run_id), encode_run(spec, plan, 0.0))
    evaluation = evaluate_run(spec.run_id, store, [make_hit("d")])
    assert (evaluation.run_id, evaluation.model) == (spec.run_id, "small")
    assert (evaluation.overall.rows, evaluation.overall.unprocessed) == (4, 3)
    with pytest.raises(ConfigError, match="no run 'other'"):
        evaluate_run("other", store, [])


def test_outcome_of_unknown_dataset_is_integrity_error() -> None:
    with pytest.raises(IntegrityError, match=r"sample s: run r1 has no dataset 'other'; expected one of d"):
        evaluate([make_hit("other")], d=1)


def test_more_outcomes_than_samples_is_integrity_error() -> None:
    with pytest.raises(IntegrityError, match="2 outcomes for the 1 rows of dataset 'd'"):
        evaluate([make_hit("d"), make_hit("d")], d=1)


def test_evaluation_survives_json_round_trip() -> None:
    evaluation = evaluate(MIXED, mixed=25, empty=0)
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


def test_memory_is_independent_of_outcome_count() -> None:
    def stream(count: int) -> Iterator[Outcome]:
        return (make_miss("d", attempts=2) for _ in range(count))

    evaluate_outcomes("r1", "tiny", stream(10), {"d": 10})  # fill the caches before the measurement
    tracemalloc.start()
    try:
        evaluate_outcomes("r1", "tiny", stream(5000), {"d": 5000})
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 200_000  # a list of 5000 outcomes takes megabytes


@given(st.lists(st.sampled_from(MIXED)), st.integers(0, 5))
def test_counts_are_consistent(outcomes: list[Outcome], unprocessed: int) -> None:
    scores = evaluate(outcomes, mixed=len(outcomes) + unprocessed).overall
    assert scores.unprocessed == unprocessed
    assert scores.ok + scores.invalid + scores.failed + scores.unprocessed == scores.rows
    assert scores.n + scores.unscored == scores.ok + scores.invalid
    assert scores.first_attempt_hits <= scores.hits <= scores.ok
    assert sum(scores.failures.values()) == scores.failed
