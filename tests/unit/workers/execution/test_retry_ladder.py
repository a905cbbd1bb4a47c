"""The retry ladder: temperature, seed, ``max_tokens`` and reminder of each attempt."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.records import Kind, Sample
from common.spec.models import SamplingParams
from workers.execution.reminders import is_chinese
from workers.execution.retry_ladder import plan_attempt

GREEDY = SamplingParams(max_tokens=32)
UNREADABLE = ("answer_extractable",)


def make_sample(kind: Kind = "multiple_choice", question: str = "Which shape is it?", sample_id: str = "s1") -> Sample:
    options = {"A": "square", "B": "circle"} if kind == "multiple_choice" else {}
    return Sample(sample_id=sample_id, dataset="d", index=1, kind=kind, question=question, options=options)


def test_first_attempt_uses_the_given_settings() -> None:
    for generation in (GREEDY, SamplingParams(temperature=0.7, top_p=0.9, seed=5, stop=("</s>",))):
        plan = plan_attempt(make_sample(), generation, 1, ())
        assert (plan.settings, plan.reminder) == (generation, None)


def test_sampled_first_attempt_gets_a_stable_seed() -> None:
    """A first attempt with a temperature but without a seed gets a seed. The run is then reproducible."""
    generation = SamplingParams(temperature=0.7)
    first, again = (plan_attempt(make_sample(), generation, 1, ()).settings for _ in range(2))
    other = plan_attempt(make_sample(sample_id="s2"), generation, 1, ()).settings
    assert first == again
    assert first.seed is not None
    assert first.seed != other.seed


def test_temperature_rises_with_each_attempt() -> None:
    temperatures = [plan_attempt(make_sample(), GREEDY, number, UNREADABLE).settings.temperature for number in range(1, 7)]
    assert temperatures == [0.0, 0.2, 0.5, 0.8, 1.0, 1.0]


def test_temperature_above_the_minimum_is_kept() -> None:
    assert plan_attempt(make_sample(), SamplingParams(temperature=0.9), 3, UNREADABLE).settings.temperature == 0.9


def test_seeds_are_stable_and_distinct() -> None:
    def seed(number: int, sample_id: str = "s1", run_seed: int | None = None) -> int | None:
        generation = SamplingParams(seed=run_seed)
        return plan_attempt(make_sample(sample_id=sample_id), generation, number, UNREADABLE).settings.seed

    seeds = [seed(2), seed(3), seed(4), seed(2, "s2"), seed(2, run_seed=1)]
    assert len(set(seeds)) == len(seeds)
    assert seed(2) == seed(2)


def test_truncated_answer_doubles_max_tokens_without_reminder() -> None:
    """The upper limit is eight times the original value."""
    plans = [plan_attempt(make_sample(), GREEDY, number, ("finished",)) for number in (2, 3, 4, 5)]
    assert [plan.settings.max_tokens for plan in plans] == [64, 128, 256, 256]
    assert {plan.reminder for plan in plans} == {None}


def test_complete_answer_keeps_max_tokens_and_gets_reminder() -> None:
    plan = plan_attempt(make_sample(), GREEDY, 3, UNREADABLE)
    assert plan.settings.max_tokens == 32
    assert plan.reminder == "Answer with the letter of one option only: A, B."


@pytest.mark.parametrize(
    ("kind", "question", "violations", "reminder"),
    [
        ("multiple_choice", "图中A和B哪个更大？", UNREADABLE, "请只回答一个选项字母（A, B）。"),
        ("yes_no", "Is it red?", UNREADABLE, "Answer with Yes or No only."),
        ("yes_no", "是红色吗？", UNREADABLE, "请只回答“是”或“否”。"),
        ("number", "How many?", ("finished", "non_empty"), "Answer with a single number only."),
        ("short_text", "What does 你好 mean?", ("max_words",), "Answer with a single word or a short phrase only. Be brief."),
        ("free_text", "描述这张图。", ("max_words",), "请用文字直接回答问题。请尽量简短。"),
        ("free_text", "Describe it.", ("json_schema", "max_words"), "Answer with valid JSON only."),
    ],
)
def test_reminder_uses_the_language_of_the_question(kind: Kind, question: str, violations: tuple[str, ...], reminder: str) -> None:
    assert plan_attempt(make_sample(kind, question), GREEDY, 2, violations).reminder == reminder


def test_reminder_without_options_does_not_list_letters() -> None:
    sample = Sample(sample_id="s", dataset="d", index=1, kind="multiple_choice", question="Which?")
    assert plan_attempt(sample, GREEDY, 2, UNREADABLE).reminder == "Answer with the letter of one option only."


def test_japanese_is_not_chinese() -> None:
    assert not is_chinese("何色ですか")
    assert not is_chinese("")


@given(
    number=st.integers(1, 20),
    violations=st.lists(st.sampled_from(["finished", "non_empty", "max_words", "json_schema"]), unique=True),
    fields=st.fixed_dictionaries(
        {"max_tokens": st.integers(1, 4096), "temperature": st.floats(0, 10), "seed": st.none() | st.integers(0, 2**63 - 1)}
    ),
)
def test_every_plan_is_valid_and_repeatable(number: int, violations: list[str], fields: dict[str, Any]) -> None:
    generation = SamplingParams(**fields)
    plan = plan_attempt(make_sample(), generation, number, tuple(violations))
    assert plan == plan_attempt(make_sample(), generation, number, tuple(violations))
    assert SamplingParams.model_validate(plan.settings.model_dump()) == plan.settings
    assert generation.temperature <= plan.settings.temperature
    assert generation.max_tokens <= plan.settings.max_tokens <= 8 * generation.max_tokens
    assert number == 1 or plan.settings.seed is not None
