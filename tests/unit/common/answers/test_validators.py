"""Validators, detection of refusals and errors in validator entries."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.answers.refusals import is_refusal
from common.answers.validators import VALIDATORS, Answered, build_validators, check_validators, find_violations
from common.errors import ConfigError
from common.records import Sample

SCHEMA = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}


def make_answered(prediction: str, *, text: str | None = None, options: dict[str, str] | None = None) -> Answered:
    sample = Sample(sample_id="s1", dataset="d", index=1, kind="free_text", question="?", options=options or {})
    return Answered(sample, prediction if text is None else text, prediction, prediction.strip() or None, "stop")


def violates(entry: str | dict[str, Any], prediction: str, **fields: Any) -> bool:
    return bool(find_violations(build_validators((entry,)), make_answered(prediction, **fields)))


def accepts_short(answered: Answered) -> bool:
    return len(answered.prediction) < 5


REFUSALS = [
    "I'm sorry, I can't help with that.",
    "I’m sorry, but I cannot assist with identifying people.",
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
    "As an AI language model, I cannot see images.",
    "**I cannot see the image.**",
    "I am unable to view the image you uploaded.",
    "Unfortunately, I cannot determine the answer from this image.",
    "I'm unable to provide a diagnosis.",
    "I'm not able to identify the person in this image.",
    "No image was provided.",
    "Please provide the image.",
    "I don't see an image attached.",
    "I do not have access to the image.",
    "I'm sorry.",
    "I apologize, but I am unable to assist with that.",
    "It seems there is no image attached. I can't help with that.",
    "抱歉，我无法回答这个问题。",
    "对不起，我不能提供医疗诊断。",
    "我无法查看图片。",
    "作为一个AI语言模型，我无法看到图像。",
    "很抱歉，由于没有图片，无法回答",
    "请上传图片",
    "我是一个AI助手",
]
ANSWERS = [
    "No",
    "The patient is unable to walk",
    "I cannot see any fracture in the image.",
    "I can't tell any difference between the two.",
    "I cannot identify any abnormality",
    "I don't see any dogs.",
    "Sorry, we're closed",
    "No image artifacts are seen.",
    "No images of dogs are present",
    "The man cannot see the image on the wall",
    "Unable to walk",
    "A robot holds a sign that says sorry",
    "Cannot be determined",
    "病人无法行走",
    "无法行走",
    "没有",
    "图中的标语写着抱歉",
    "我不能确定是否有骨折，但看起来有",
    "",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusal_is_detected(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_answer_is_not_a_refusal(text: str) -> None:
    assert not is_refusal(text)


def test_refusal_equal_to_an_option_is_accepted() -> None:
    assert violates("no_refusal", "Cannot determine the answer")
    assert not violates("no_refusal", "Cannot determine the answer", options={"D": "cannot determine the answer."})


def test_image_tokens_are_found_in_raw_text() -> None:
    """Tool output is skipped because it may contain image tokens."""
    assert violates("no_image_token", "", text="<image>")
    assert violates("no_image_token", "B", text="B <|image_pad|>")
    assert not violates("no_image_token", "B", text="<sandbox_output><image></sandbox_output>B")
    assert not violates("no_image_token", "The image shows images.")


@pytest.mark.parametrize(
    "text",
    [
        "no " * 24,
        "a red circle on the left, " * 5,
        "图中有一个圆。" * 4,
        "哈" * 30,
        "hahaha" * 20,
        "!" * 30,
        "It starts well and then " + "goes on and on and on, " * 6,
        "The quick brown fox jumps over the lazy dog near the old river bank. " * 4,
    ],
)
def test_repetition_is_detected(text: str) -> None:
    assert violates("no_repetition", text)


@pytest.mark.parametrize(
    "text",
    [
        "very very very good",
        "A red circle, a red square, a red star, a red line and a red dot.",
        "| a | b |\n|---|---|\n" + "|   |   |\n" * 20,
        "=" * 200,
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26",
        "左肺上叶可见结节影，右肺下叶可见斑片影，双侧胸腔未见积液，心影大小正常，主动脉未见异常。",
        "<think>" + "wait " * 40 + "</think> A dog.",
        "",
    ],
)
def test_text_without_loop_is_not_repetition(text: str) -> None:
    assert not violates("no_repetition", text)


def test_truncated_answer_is_not_finished() -> None:
    answered = Answered(make_answered("").sample, "a", "a", "a", "length")
    assert find_violations(build_validators(("finished", "non_empty")), answered) == ("finished",)


def test_max_words_counts_chinese_characters() -> None:
    assert not violates({"max_words": 3}, "a red circle.")
    assert violates({"max_words": 3}, "a big red circle")
    assert not violates({"max_words": 4}, "红色圆形")
    assert violates({"max_words": 3}, "红色圆形")


@pytest.mark.parametrize(
    ("prediction", "fits"),
    [
        ('{"count": 3}', True),
        ('```json\n{"count": 3}\n```', True),
        ('```\n{"count": 3}\n```\n', True),
        ('{"count": "three"}', False),
        ('Here it is: {"count": 3}', False),
        ('{"count": NaN}', False),
        ("[" * 100_000, False),
        ("", False),
    ],
)
def test_json_must_match_its_schema(prediction: str, fits: bool) -> None:
    assert violates({"json_schema": SCHEMA}, prediction) is not fits


def test_regex_searches_the_prediction() -> None:
    assert not violates({"regex": "^[A-D]$"}, "B", text="<think>x</think>B")
    assert violates({"regex": "^[A-D]$"}, "B.")


def test_custom_validator_is_named_by_import_string() -> None:
    entry = f"{__name__}:accepts_short"
    assert find_violations(build_validators(("non_empty", entry)), make_answered("too long")) == (entry,)


def test_violations_are_ordered_and_unique() -> None:
    validators = build_validators(({"regex": "x"}, "non_empty", {"regex": "y"}))
    assert find_violations(validators, make_answered("")) == ("regex", "non_empty")


ARGUMENTS: dict[str, Any] = {"max_words": 5, "json_schema": SCHEMA, "regex": "a"}


def test_every_known_validator_can_be_built() -> None:
    entries = tuple({name: ARGUMENTS[name]} if name in ARGUMENTS else name for name in VALIDATORS)
    assert tuple(name for name, _ in build_validators(entries)) == tuple(VALIDATORS)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("non_emty", "validation.validators: unknown validator 'non_emty'; did you mean 'non_empty'?; known validators: answer_"),
        ({"non_empty": 3}, "non_empty: found 3; expected the name alone, without an argument"),
        ("max_words", "max_words: found None; expected a whole number"),
        ({"max_words": "many"}, "max_words: found 'many'; expected a whole number"),
        ({"max_words": True}, "max_words: found True"),
        ({"max_words": 0}, "max_words: found 0"),
        ({"max_words": None}, "max_words: found no argument"),
        ({"regex": "("}, "regex: '(' is not a valid pattern"),
        ({"json_schema": {"type": "objekt"}}, "json_schema: not a valid JSON schema at $.type"),
        ({"json_schema": {"$ref": "https://example.org/a.json"}}, "points outside the schema"),
        ({"json_schema": {"$ref": "#/definitions/none"}}, "does not exist in the schema"),
        ({"max_words": 3, "regex": "x"}, "expected one name with its argument"),
        ({"my.package:function": 3}, "expected the import string alone, without an argument"),
    ],
)
def test_invalid_entry_is_rejected(entry: str | dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_validators((entry,))
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_validators((entry,))


def test_spec_check_does_not_resolve_import_strings() -> None:
    """The worker resolves them because the package may be missing on the producer."""
    check_validators(("no.such.package:function",))
    with pytest.raises(ConfigError, match=r"validator 'no\.such\.package:function': cannot import"):
        build_validators(("no.such.package:function",))


@given(st.text())
def test_validators_accept_any_text_without_error(text: str) -> None:
    entries = tuple({name: ARGUMENTS[name]} if name in ARGUMENTS else name for name in VALIDATORS)
    violations = find_violations(build_validators(entries), make_answered(text))
    assert ("non_empty" in violations) is (not text.strip())
    assert ("regex" in violations) is ("a" not in text)
    assert "finished" not in violations
    if not text.strip():
        assert {"non_empty", "answer_extractable", "json_schema", "regex"} <= set(violations)
