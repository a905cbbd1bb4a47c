"""The built-in templates, word for word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.prompts.built_in import TEMPLATES
from common.prompts.messages import join_text, render_messages
from common.records import Kind, Sample
from common.spec.prompts import PromptSpec

OPTIONS = {"A": "a circle", "B": "a square"}
WORD = "\nAnswer the question using a single word or phrase."
SELECT = "Please select the correct answer from the options above. \n"
LETTER = "\nAnswer with the option's letter from the given choices directly."
CHOICE = "Question: Which?\nOptions:\nA. a circle\nB. a square\n" + SELECT

TEXTS: list[tuple[str, Kind, str | None, bool, str]] = [
    ("default", "multiple_choice", None, True, CHOICE),
    ("default", "multiple_choice", "Look.", True, f"Hint: Look.\n{CHOICE}"),
    ("default", "multiple_choice", None, False, "Which?"),
    ("default", "short_text", None, False, f"Which?{WORD}"),
    ("default", "number", "Look.", False, f"Hint: Look.\nWhich?{WORD}"),
    ("default", "yes_no", None, False, "Which?"),
    ("default", "free_text", "Look.", False, "Hint: Look.\nWhich?"),
    ("question_only", "multiple_choice", "Look.", True, "Which?"),
    ("question_only", "number", None, False, "Which?"),
    ("vlmeval_mcq", "short_text", None, False, "Question: Which?\n"),
    ("vlmeval_mcq", "multiple_choice", "Look.", True, f"Hint: Look.\n{CHOICE}"),
    ("qwen2_vl", "multiple_choice", "Look.", True, f"Hint: Look.\n{CHOICE.removesuffix(' ' + chr(10))}"),
    ("qwen2_vl", "yes_no", None, False, "Which? Please answer yes or no."),
    ("qwen2_vl", "short_text", None, False, "Which?\nPlease try to answer the question with short words or phrases if possible."),
    ("qwen2_vl", "free_text", None, False, "Which?"),
    ("llava", "multiple_choice", "Look.", True, f"Look.\nWhich?\nA. a circle\nB. a square{LETTER}"),
    ("llava", "short_text", None, False, "Which?\nAnswer the question directly."),
    ("lmms_eval", "multiple_choice", "Look.", True, f"Context: Look.\nWhich?\nA. a circle\nB. a square{LETTER}"),
    ("lmms_eval", "yes_no", None, False, f"Which?{WORD}"),
    ("lmms_eval", "short_text", None, False, f"Which?{WORD}"),
    ("lmms_eval", "free_text", None, False, "Which?"),
]


def render(sample: Sample, template: str) -> str:
    (message,) = render_messages(sample, PromptSpec(template=template)).messages
    return join_text(message.content)


@pytest.mark.parametrize(("template", "kind", "hint", "has_options", "expected"), TEXTS)
def test_built_in_template_has_its_wording(template: str, kind: Kind, hint: str | None, has_options: bool, expected: str) -> None:
    options = OPTIONS if has_options else {}
    sample = Sample(sample_id="s", dataset="d", index="1", kind=kind, question="Which?", hint=hint, options=options)
    assert render(sample, template) == expected


def test_every_built_in_template_is_tested() -> None:
    assert {template for template, *_ in TEXTS} == TEMPLATES.keys()


def word_as_before(sample: Sample) -> str:
    """Return the text of earlier versions. It must not change, because the demo's model has learned it."""
    if sample.kind == "multiple_choice" and sample.options:
        hint = f"Hint: {sample.hint}\n" if sample.hint else ""
        options = "".join(f"{letter}. {text}\n" for letter, text in sample.options.items())
        return f"{hint}Question: {sample.question}\nOptions:\n{options}{SELECT}"
    question = f"Hint: {sample.hint}\n{sample.question}" if sample.hint else sample.question
    return question + WORD if sample.kind in ("short_text", "number") else question


TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["{{ question }}", "{% if %}", "a\r\nb", "&<b>'\"", " \n"]
)


@given(
    question=TEXT,
    hint=st.none() | TEXT,
    options=st.dictionaries(st.sampled_from("ABCDE"), TEXT, max_size=5),
    kind=st.sampled_from(["multiple_choice", "yes_no", "number", "short_text", "free_text"]),
)
def test_default_is_the_text_of_earlier_versions(question: str, hint: str | None, options: dict[str, str], kind: Kind) -> None:
    sample = Sample(sample_id="s", dataset="d", index="1", kind=kind, question=question, hint=hint, options=options)
    assert render(sample, "default") == word_as_before(sample)
