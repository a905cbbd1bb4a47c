"""Templates: the fields of a row by name, errors that name what is missing, and limits."""

import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.prompts.sandbox import MOST_CHARACTERS, MOST_ITERATIONS
from common.prompts.templates import (
    MOST_TEMPLATE_CHARACTERS,
    TemplateFault,
    check_template,
    find_template,
    list_fields,
    render_template,
)
from common.records import Sample

SAMPLE = Sample(
    sample_id="s1",
    dataset="shapes",
    index="7",
    kind="multiple_choice",
    question="Which is it?",
    hint="Look.",
    options={"A": "a circle", "B": "a square"},
    target=("B",),
    metadata={
        "category": "form",
        "l2-category": "shape",
        "depth": 2,
        "answer": "B",
        "Target": "B",
        "tags": ["x", "y"],
        "part": {"a": 1},
    },
)


def render(text: str, sample: Sample = SAMPLE) -> str:
    return render_template(text, list_fields(sample), "prompt.template")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ question }}", "Which is it?"),
        ("{{ hint }}|{{ kind }}|{{ index }}|{{ dataset }}", "Look.|multiple_choice|7|shapes"),
        ("{{ letters | join(', ') }}", "A, B"),
        ("{% for letter, text in options.items() %}({{ letter }}) {{ text }} {% endfor %}", "(A) a circle (B) a square "),
        ("{{ options.A }}, {{ options['B'] }}", "a circle, a square"),
        ("{{ category }} {{ metadata['l2-category'] }} {{ depth }}", "form shape 2"),
        ("{{ tags[0] }}{{ part.a }}{{ tags | tojson }}", 'x1["x", "y"]'),
        ("{% if depth > 1 %}deep{% else %}flat{% endif %}", "deep"),
        ("{{ question.upper() }} {{ question | lower }} {{ question[:5] }}", "WHICH IS IT? which is it? Which"),
        ("{{ caption | default('none') }}{% if caption is defined %}!{% endif %}", "none"),
        ("{% for tag in tags %}{{ loop.index }}{{ tag }}{{ '' if loop.last else ',' }}{% endfor %}", "1x,2y"),
        ("{{ question | replace('Which', 'What') }}", "What is it?"),
        ("{{ 'Category: ' ~ category }}\n", "Category: form\n"),
        ("<b>{{ '<&>' }}</b>", "<b><&></b>"),
    ],
)
def test_template_renders_the_fields_of_a_row(template: str, expected: str) -> None:
    assert render(template) == expected


@pytest.mark.parametrize("name", ["target", "answer", "answers", "Target", "metadata.answer", "metadata['Target']"])
def test_template_cannot_show_the_target(name: str) -> None:
    with pytest.raises(TemplateFault, match=r"^prompt\.template: "):
        render(f"{{{{ {name} }}}}")
    assert "B" not in render("{{ metadata }}").replace("'A'", "")


NESTED = {
    "metadata": {"answers": ["SECRET"], "source": "web"},
    "row": {"Answer": "SECRET", "id": 1},
    "annotations": [{"answer": "SECRET", "by": "x"}, {"part": {"targets": "SECRET", "by": "y"}}],
    "prediction": '{"answer": "blue"}',
    "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "SECRET"}],
    "messages": [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "SECRET"}],
    "note": "The answer: see {page}.",
}
SHOWN = [
    *("{{ metadata }}", "{{ metadata | tojson }}", "{{ metadata.items() | list }}", "{{ metadata.values() | list }}"),
    *("{{ row }}", "{{ annotations }}", "{{ annotations | tojson }}", "{{ conversations }}", "{{ messages }}"),
    *("{{ metadata.row }}", "{{ metadata['metadata'] }}", "{{ metadata.get('answer', '-') }}"),
    *("{{ annotations | map(attribute='answer') | list }}", "{% for one in metadata.values() %}{{ one }}{% endfor %}"),
    *(
        "{{ annotations | map(attribute='part.targets') | list }}",
        "{{ annotations[0].get('answer', '') }}",
    ),
]


@pytest.mark.parametrize("template", SHOWN)
def test_template_cannot_reach_a_nested_target(template: str) -> None:
    with suppress(TemplateFault):
        assert "SECRET" not in render(template, SAMPLE.model_copy(update={"metadata": NESTED}))


def test_other_nested_values_are_shown() -> None:
    sample = SAMPLE.model_copy(update={"metadata": NESTED})
    template = "{{ metadata.metadata.source }} {{ row.id }} {{ annotations[1].part.by }} {{ prediction }}"
    template += " {{ conversations[0].value }} {{ note }}"
    assert render(template, sample) == 'web 1 y {"answer": "blue"} Why? The answer: see {page}.'
    with pytest.raises(TemplateFault, match=r"has no attribute 'Answer'; a prompt cannot contain the target"):
        render("{{ row.Answer }}", sample)
    assert sample.metadata == NESTED


SECRETS = st.sampled_from(["target", "Answers", "ANSWER", "x", "y"])


@given(
    metadata=st.dictionaries(
        SECRETS,
        st.recursive(
            st.sampled_from(["plain", 1, None]),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SECRETS, inner, max_size=3),
            max_leaves=8,
        ),
    )
)
def test_no_secret_name_is_shown_at_any_depth(metadata: dict[str, Any]) -> None:
    shown = render("{{ metadata | tojson }}", SAMPLE.model_copy(update={"metadata": metadata})).lower()
    assert "target" not in shown
    assert "answer" not in shown


def test_null_counts_as_absent() -> None:
    sample = SAMPLE.model_copy(update={"metadata": {"topic": None, "tags": [None]}})
    assert render("{{ topic | default('-') }}{{ metadata.topic | default('-') }}{{ metadata }}", sample) == "--{'tags': [None]}"
    with pytest.raises(TemplateFault, match="'topic' is undefined"):
        render("{{ topic }}", sample)


def test_missing_name_lists_the_names_of_the_row() -> None:
    with pytest.raises(TemplateFault) as caught:
        render("{{ categry }}")
    assert str(caught.value) == (
        "prompt.template: 'categry' is undefined; did you mean 'category'?; the row has: "
        "category, dataset, depth, hint, index, kind, l2-category, letters, metadata, options, part, question, tags"
    )
    assert caught.value.code == "bad_field"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ question", "line 1: unexpected end of template"),
        ("a\n{% if %}", "line 2: "),
        ("{% set x = 1 %}", "cannot use set"),
        ("{% macro f() %}{% endmacro %}", "cannot use macro"),
        ("{% include 'x' %}", "cannot use include"),
        ("{% import 'x' as x %}", "cannot use import"),
        ("{% extends 'x' %}", "cannot use extends"),
        ("{% block b %}{% endblock %}", "cannot use block"),
        ("{% for x in tags recursive %}{{ loop(x) }}{% endfor %}", "cannot use recursive"),
        ("{{ question * 9 }}", "cannot use mul"),
        ("{{ 9 ** 9 ** 9 }}", "cannot use pow"),
        ("{{ '%9999999d' % 1 }}", "cannot use mod"),
        ("{{ question.center(10 ) }}", "cannot use this call"),
        ("{{ range(10) }}", "cannot use this call"),
        ("{{ question.format() }}", "cannot use this call"),
        ("{{ question | center(10) }}", "No filter named 'center'"),
        ("{{ tags | random }}", "No filter named 'random'"),
        ("{{ question.__class__ }}", "the name '__class__'"),
        ("{{ _iterations }}", "the name '_iterations'"),
        ("{% for a in tags %}" * 4 + "{% endfor %}" * 4, "more than 3 loops within each other"),
        ("{% for a in tags %}" * 300 + "{% endfor %}" * 300, "nested too deeply"),
        ("{% if tags %}" * 300 + "{% endif %}" * 300, "nested too deeply"),
        ("{{ " + "(" * 400 + "1" + ")" * 400 + " }}", "nested too deeply"),
        ("x" * (MOST_TEMPLATE_CHARACTERS + 1), "expected at most 20,000"),
    ],
)
def test_invalid_template_is_a_config_error(template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^run\.yaml: prompt\.template: ") as caught:
        check_template(template, "run.yaml: prompt.template")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in words %}{% for b in words %}{{ b }}{% endfor %}{% endfor %}",
        "{% for a in words if a == 'b' %}{{ a }}{% endfor %}" * 20,
        "{% for a in question %}{% for b in question %}{% for c in question %}{% endfor %}{% endfor %}{% endfor %}",
    ],
)
def test_loops_are_limited(template: str) -> None:
    sample = SAMPLE.model_copy(update={"question": "word " * 2000, "metadata": {"words": ["a"] * 2000}})
    with pytest.raises(TemplateFault, match=f"more than {MOST_ITERATIONS:,} iterations"):
        render(template, sample)


def test_output_is_limited_except_for_long_questions() -> None:
    sample = SAMPLE.model_copy(update={"question": "x" * (MOST_CHARACTERS // 4)})
    with pytest.raises(TemplateFault, match=f"more than {MOST_CHARACTERS:,} characters"):
        render("{{ question }}" * 5, sample)
    longer = SAMPLE.model_copy(update={"question": "x" * (MOST_CHARACTERS + 1)})
    assert render("{{ question }}", longer) == longer.question


@pytest.mark.parametrize(
    "expression",
    [
        "question" + " | list | string" * 20,
        "question" + " | tojson" * 30,
        "letters | join(question)",
        "letters | join(d=long)",
        "question | replace('a', long)",
        "metadata | tojson(1000000000)",
        "metadata | tojson(indent=1000000000)",
        "question | replace(old='a', new=long)",
    ],
)
def test_filters_cannot_grow_a_text_without_limit(expression: str) -> None:
    sample = SAMPLE.model_copy(update={"question": '"' * 2000, "metadata": {"long": "x" * 2000}})
    with pytest.raises(TemplateFault, match="characters"):
        render(f"{{{{ {expression} }}}}", sample)


@pytest.mark.parametrize(
    "expression",
    [
        "question | replace('', x) | replace('', x)",
        "question | replace('', x) | join(x)",
        "many | map('replace', '', x) | join",
        "question | list | tojson(100) | list | tojson(100)",
        "question | list | tojson(x)",
    ],
)
def test_long_text_is_refused_before_it_is_built(expression: str) -> None:
    sample = SAMPLE.model_copy(update={"question": "q" * 5000, "metadata": {"x": "x" * 1000, "many": ["q" * 5000] * 50}})
    tracemalloc.start()
    try:
        with pytest.raises(TemplateFault, match=r"characters|the indent of tojson is str; expected a whole number"):
            render(f"{{{{ {expression} }}}}", sample)
        assert tracemalloc.get_traced_memory()[1] < 12 * MOST_CHARACTERS
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("question | replace('i', 'y', 1)", "Whych is it?"),
        ("question | replace('', '-', 2)", "-W-hich is it?"),
        ("letters | join", "AB"),
        ("options.items() | join(':', attribute=0)", "A:B"),
        ("500 | tojson", "500"),
        ("part | tojson(2)", '{\n  "a": 1\n}'),
        ('"<\'&>" | tojson', '"\\u003c\\u0027\\u0026\\u003e"'),
    ],
)
def test_limited_filters_work_as_in_jinja(expression: str, expected: str) -> None:
    assert render(f"{{{{ {expression} }}}}") == expected


@pytest.mark.parametrize("expression", ["question.upper", "tags | map('upper')", "self", "loop_of"])
def test_text_that_differs_between_processes_is_refused(expression: str) -> None:
    with pytest.raises(TemplateFault) as caught:
        render(f"{{{{ {expression} }}}}")
    assert "0x" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(metadata=st.dictionaries(st.sampled_from(["one", "two", "l2-three"]), VALUES, max_size=3))
def test_text_is_the_same_after_planning(metadata: dict[str, Any]) -> None:
    planned = SAMPLE.model_copy(update={"metadata": metadata})
    stored = Sample.model_validate_json(planned.model_dump_json(exclude_defaults=True))
    template = "{{ metadata }}{{ metadata | tojson }}{{ one | default('-') }}"
    assert render(template, stored) == render(template, planned)


def test_unknown_template_name_is_a_config_error() -> None:
    assert find_template("question_only", "x") == "{{ question }}"
    assert find_template("Describe the image.", "x") == "Describe the image."
    with pytest.raises(ConfigError, match=r"x: no template is called 'question_onyl'; did you mean 'question_only'"):
        find_template("question_onyl", "x")
