"""Strict YAML: input that PyYAML accepts silently is rejected, and every error names its line."""

import pytest

from common.errors import ConfigError
from common.spec import strict_yaml as yaml_text
from common.spec.strict_yaml import parse_yaml

BILLION_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def refuse(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "spec.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 1", {"a": 1}),
        ("\ufeffa: 1", {"a": 1}),
        ("- {a: 1}\n- {a: 2}", [{"a": 1}, {"a": 2}]),
        ("a: &x [1, 2]", {"a": [1, 2]}),
        ("a: {<<: {c: 1}, c: 2}", {"a": {"c": 2}}),
    ],
)
def test_valid_yaml_is_parsed(text: str, value: object) -> None:
    assert parse_yaml(text, "spec.yaml") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\n'a': 3", "line 3: a: duplicate key, first set in line 1; expected each key once"),
        ("a:\n  - b: 1\n    b: 2", "line 3: a.0.b: duplicate key, first set in line 2; expected each key once"),
        ("a: &x [1, 2]\nb: *x", "line 2: b: found the alias *x; write the value out, or quote it if it is text"),
        ("b: &x {c: 1}\na: {<<: *x, c: 2}", "line 2: a.<<: found the alias *x"),
        ("a: &x b\n? *x\n: 1", "line 2: found the alias *x"),
        ("*x", "line 1: found the alias *x"),
        (BILLION_LAUGHS, "line 2: b.0: found the alias *a"),
        (f"a: &x {'y' * 100_000}\nb: [{', '.join(['*x'] * 200)}]", "line 2: b.0: found the alias *x"),
        ("a: &x [*x]", "line 1: a.0: found the alias *x"),
        ("? {a: 1, a: 2}\n: 3", "line 1: a: duplicate key, first set in line 1"),
        ("[" * 5000, "nested too deeply; expected a few levels"),
        ("a:\n\tb: 1", "not valid YAML (line 2, column 1): while scanning for the next token: found character '\\t' that"),
        ("a: 1\nb: \x00", "not valid YAML (line 2): the character #x0000; remove it"),
        ("a: 1\n---\nb: 1", "not valid YAML (line 2, column 1): expected a single document in the stream"),
        ("a: 2020-13-45", "not valid YAML: month must be in 1..12"),
        ("? [a]\n: 1", "not valid YAML (line 1, column 3): while constructing a mapping: found unhashable key"),
    ],
)
def test_error_names_line_and_field(text: str, message: str) -> None:
    assert refuse(text).startswith(f"spec.yaml: {message}")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("a:\n\tb: 1", "indent with spaces, not with tabs"),
        ("a: @x", "put quotes around the text"),
        ("{a: What is it?}", "put quotes around text with a question mark"),
        ("[What is it?, b]", "put quotes around text with a question mark"),
        ("a: Choose: b or c", "put quotes around text with a colon, or correct the indentation"),
        ("a: {{ question }}", "put quotes around text that begins with {{"),
        ("a: {{ question }} Answer.", "put quotes around the whole text"),
        ("a: 'x' or 'y'", "put quotes around the whole text"),
    ],
)
def test_error_says_what_to_quote(text: str, advice: str) -> None:
    assert refuse(text).endswith(f"; {advice}")


def test_overlong_text_is_rejected_before_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "MOST_CHARACTERS", 10)
    assert refuse("[" * 11) == "spec.yaml: more than 10 characters; expected a spec or a profile, of a few kilobytes"
