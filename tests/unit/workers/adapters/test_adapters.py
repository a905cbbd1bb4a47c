"""Adapters: prompts, and predictions from the raw answers of every model family."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.answers.extract import extract_answer
from common.answers.markup import drop_blocks, drop_image_tokens, drop_thinking, take_answer, take_box, take_boxed
from common.answers.validators import Answered, build_validators, find_violations
from common.errors import ConfigError
from common.records import Kind, Sample
from common.spec.files import check_validation, read_profile
from workers.adapters import load_adapter
from workers.adapters.registry import ADAPTERS
from workers.engines.base import Message

RAW_ANSWERS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "raw_answers.yaml").read_text(encoding="utf-8"))
OPTIONS = {"A": "a blue square", "B": "a red circle", "C": "a green star", "D": "none of the above"}
ALL = ("non_empty", "no_image_token", "no_refusal", "answer_extractable", "finished", "no_repetition")
FAMILIES = (
    *("qwen2.5-vl-7b", "qwen3-vl-8b", "qwen3-vl-8b-thinking", "internvl3-8b", "glm-4.1v-9b-thinking", "glm-4.5v"),
    *("llava-1.5-7b", "llava-onevision-7b", "idefics2-8b", "idefics3-8b", "smolvlm-2b", "mmada-8b", "thyme", "gemini"),
)
SITUATIONS = ("good", "refusal", "image token", "empty", "cut", "boxed", "thinking")


def make_sample(kind: Kind = "multiple_choice", **fields: Any) -> Sample:
    options = OPTIONS if kind == "multiple_choice" else {}
    return Sample(
        sample_id="s1", dataset="shapes", index=1, kind=kind, options=options, **{"question": "Which shape is it?", **fields}
    )


@pytest.mark.parametrize("case", RAW_ANSWERS, ids=[case["name"] for case in RAW_ANSWERS])
def test_raw_answer_gives_prediction_and_violations(case: dict[str, Any]) -> None:
    sample = make_sample(case.get("kind", "multiple_choice"))
    adapter, validators = find_adapter_and_validators(case)
    prediction = load_adapter(adapter).to_prediction(sample, case["raw"])
    answer = extract_answer(sample.kind, prediction, sample.options)
    answered = Answered(sample, case["raw"], prediction, answer, case.get("finish", "stop"))
    violations = find_violations(build_validators(validators), answered)
    assert prediction == case.get("prediction", case["raw"])
    assert answer == case["answer"]
    assert list(violations) == case.get("violations", [])


def find_adapter_and_validators(case: dict[str, Any]) -> tuple[str, tuple[str | dict[str, Any], ...]]:
    if "adapter" in case:
        return case["adapter"], ALL
    profile = read_profile(case["profile"])
    return profile.adapter, check_validation(profile.validation, profile.name).validators


def test_raw_answers_cover_every_family_and_situation() -> None:
    names = {case["name"] for case in RAW_ANSWERS}
    assert {f"{family} {situation}" for family in FAMILIES for situation in SITUATIONS} <= names
    assert all(case["name"].startswith(case.get("profile", "")) for case in RAW_ANSWERS)


MESSAGES = (
    Message("system", ("Be brief.",)),
    Message("user", ("First this:", 0, "What is it?")),
    Message("assistant", ("A square.",)),
    Message("user", (1, 2, "And this?")),
)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_adapter_keeps_messages_and_appends_the_reminder(name: str) -> None:
    first, *turns, last = load_adapter(name).to_prompt(make_sample(), MESSAGES, reminder="Answer with a letter.").messages
    assert first.role == "system"
    assert first.text.startswith("Be brief.")
    assert tuple(turns) == MESSAGES[1:3]
    assert (last.role, last.content[:2]) == ("user", (1, 2))
    assert last.text.startswith("And this?\n")
    assert last.text.endswith("\nAnswer with a letter.")


@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - {"internvl_thinking", "thyme"}))
def test_first_attempt_sends_the_messages_unchanged(name: str) -> None:
    assert load_adapter(name).to_prompt(make_sample(), MESSAGES).messages == MESSAGES


def test_reminder_follows_an_image_at_the_end() -> None:
    messages = (Message("user", ("Which is it?", 0)),)
    (message,) = load_adapter("chat").to_prompt(make_sample(), messages, reminder="One word.").messages
    assert message.content == ("Which is it?", 0, "\nOne word.")


def test_adapter_sets_thinking_by_option_or_prompt() -> None:
    assert load_adapter("glm4v").to_prompt(make_sample(), MESSAGES).template_options == {}
    assert load_adapter("glm4v_direct").to_prompt(make_sample(), MESSAGES).template_options == {"enable_thinking": False}
    system, *others = load_adapter("internvl_thinking").to_prompt(make_sample(), MESSAGES[1:]).messages
    assert "inside <think> and </think>" in system.text
    assert tuple(others) == MESSAGES[1:]


def test_system_prompts_of_run_and_family_are_joined() -> None:
    system, *others = load_adapter("internvl_thinking").to_prompt(make_sample(), MESSAGES).messages
    assert system.text.startswith("Be brief.\n\nFirst analyse the question")
    assert tuple(others) == MESSAGES[1:]


def test_thyme_prompt_requests_tags_without_code() -> None:
    *_, message = load_adapter("thyme").to_prompt(make_sample("free_text"), MESSAGES).messages
    assert message.text.startswith("And this?\nDo not write code. ")
    assert message.text.endswith(" inside <answer> and </answer>.")


BARE = ("<think>", "</think>", "<answer>", "\\boxed{", "<|begin_of_box|>", "<code>", "<image>")
# Each adapter keeps the bare markers of other families.
KEPT = {
    "chat": BARE,
    "idefics": BARE,
    "qwen": ("<answer>", "\\boxed{", "<|begin_of_box|>", "<code>", "<image>"),
    "internvl": ("<answer>", "\\boxed{", "<|begin_of_box|>", "<code>", "<image>"),
    "internvl_thinking": ("<answer>", "\\boxed{", "<|begin_of_box|>", "<code>", "<image>"),
    "glm4v": ("\\boxed{", "<code>", "<image>"),
    "glm4v_direct": ("\\boxed{", "<code>", "<image>"),
    "mmada": ("<answer>", "\\boxed{", "<|begin_of_box|>", "<code>"),
    "thyme": ("\\boxed{", "<|begin_of_box|>", "<image>"),
}


@pytest.mark.parametrize("name", sorted(ADAPTERS))
@pytest.mark.parametrize("raw", ["", " ", *BARE])
def test_bare_markers_of_the_family_are_dropped(name: str, raw: str) -> None:
    assert load_adapter(name).to_prediction(make_sample("short_text"), raw) == (raw if raw in KEPT[name] else "")


def test_custom_adapter_loads_by_import_string() -> None:
    assert load_adapter("workers.adapters.chat:ChatAdapter").to_prediction(make_sample(), " B ") == "B"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwne", "unknown adapter 'qwne'; did you mean 'qwen'\\?; known adapters: chat, "),
        ("no.such.module:Adapter", "cannot import 'no.such.module'"),
        ("workers.adapters.chat:Missing", "'Missing' does not exist"),
        ("workers.adapters.registry:ADAPTERS", "'ADAPTERS' is not callable"),
        ("builtins:dict", "has no method 'to_prompt'"),
    ],
)
def test_invalid_adapter_is_rejected(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_adapter(name)


def test_thinking_is_dropped_even_if_truncated() -> None:
    assert drop_thinking("<think>a</think> b <THINK>c</THINK> d") == "b  d"
    assert drop_thinking("a</think>b") == "b"
    assert drop_thinking("a <thinking>b") == "a"
    assert drop_thinking("<think>a <think>b</think> c</think> d") == "d"


def test_last_answer_and_last_box_are_used() -> None:
    assert take_answer("<answer>A</answer> no, <answer> B </answer> end") == "B"
    assert take_answer("<answer>A</answer> then <answer>B") == "B"
    assert take_answer(" plain ") == "plain"
    assert take_box("<|begin_of_box|>A<|end_of_box|> <|begin_of_box|>B<|end_of_box|>") == "B"
    assert take_boxed(r"\boxed{\frac{1}{2}} so \boxed{\frac{1}{2}}") == r"\frac{1}{2}"


def test_blocks_and_image_tokens_are_dropped() -> None:
    assert drop_blocks("a<code>b</code>c<code>d", "code") == "ac"
    assert drop_image_tokens("<image>a<|image_pad|> <IMG_CONTEXT>") == "a"
    assert drop_image_tokens("<fake_token_around_image><row_1_col_2>a<global-img><|begin_of_image|>") == "a"


class EarlierAdapter:
    """An adapter for the interface of earlier versions."""

    def to_prompt(self, sample: Sample, *, images: int, reminder: str | None = None) -> None:
        """Do nothing, because it is not called."""

    def to_prediction(self, sample: Sample, text: str) -> str:
        del sample
        return text


def test_adapter_of_an_earlier_interface_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"; expected to_prompt\(sample, messages, \*, reminder=None\)"):
        load_adapter(f"{__name__}:EarlierAdapter")
