"""Errors in specs and profiles name the file, the field, the value and a correction."""

import re
from pathlib import Path
from typing import Any

import pytest

from common.spec.files import read_specs
from tests.support.spec_files import folder, refuse, write_spec, write_yaml

__all__ = ["folder"]  # a fixture


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"modle": 1}, r"modle: unknown field \(found 1\); did you mean 'model'\?; known fields: abort_if, chunks, datasets, .*"),
        ({"datasets": [{"path": "rows.jsonl", "fieldz": {"a": "b"}}]}, r"datasets\.0\.fieldz: unknown field .*mean 'fields'\?.*"),
        ({"generation": {"max_tokns": 4}}, r"generation\.max_tokns: unknown field \(found 4\); .* 'max_tokens'\?; known .*stop.*"),
        ({"validation": {"validator": []}}, r"validation\.validator: unknown field \(found \[\]\); .*mean 'validators'\?; .*"),
        ({"shuffle": {"sed": 1}}, r"shuffle\.sed: unknown field \(found 1\); did you mean 'seed'\?; known fields: seed"),
        ({"chunks": {"frobnicate": 1}}, r"chunks\.frobnicate: unknown field \(found 1\); known fields: max_input_.*"),
        ({"generation": {"max_tokens": "many"}}, r"generation\.max_tokens: found 'many'; expected: a valid integer.*"),
        ({"generation": None}, r"generation: found nothing; expected: a mapping"),
        ({"datasets": {"path": "rows.jsonl"}}, r"datasets: found \{'path': 'rows\.jsonl'\}; expected: a list"),
        ({"datasets": ["rows.jsonl"]}, r"datasets\.0: found 'rows\.jsonl'; expected: a mapping of fields"),
        ({"datasets": [{"path": 5}]}, r"datasets\.0\.path: found 5; expected: text"),
        ({"datasets": [{"name": "rows"}]}, r"datasets\.0\.path: missing; expected a value"),
        ({"datasets": ...}, "datasets: missing; expected a value"),
        ({"datasets": []}, "datasets: found none; expected at least one.*"),
        ({"datasets": [{"path": "my rows.jsonl"}]}, r"datasets\.0\.name: found 'my rows'; expected at most 64 letters.*"),
        ({"datasets": [{"path": "rows.jsonl", "kind": "yesno"}]}, r"datasets\.0\.kind: found 'yesno'; expected: 'multiple_.*"),
        ({"datasets": [{"path": "rows.jsonl", "fields": {"id": [1]}}]}, r"datasets\.0\.fields\.id: found \[1\]; expected: text"),
        ({"models": ["echo"]}, "give either model.*"),
        ({"model": ..., "models": "echo"}, "models: found 'echo'; expected: a list"),
        ({"validation": {"validators": "non_empty"}}, r"validation\.validators: found 'non_empty'; expected: a list"),
        ({"validation": {"validators": ["nonempty"]}}, r"validation\.validators: unknown validator 'nonempty'; .* 'non_empty'\?.*"),
        ({"validation": {"validators": [{"max_words": "few"}]}}, r"validation\.validators: max_words: found 'few'; expected .*"),
        ({"chunks": {"max_samples": "x" * 200}}, r"chunks\.max_samples: found 'x{76}\.\.\.; expected: a valid integer.*"),
    ],
)  # fmt: skip
def test_error_names_file_field_value_and_suggestion(folder: Path, content: dict[str, Any], message: str) -> None:
    error = refuse(write_spec(folder, **content))
    assert re.fullmatch(rf"{re.escape(str(folder))}/specs/spec\.yaml: {message}", error), error


def test_every_error_gets_its_own_line(folder: Path) -> None:
    error = refuse(write_spec(folder, datasets=[{"path": "rows.jsonl", "limit": 0, "nam": "a"}], shuffle={"seed": "x"}))
    assert [line.split(": ")[1] for line in error.splitlines()] == ["datasets.0.limit", "datasets.0.nam", "shuffle.seed"]


def test_union_error_omits_the_python_types(folder: Path) -> None:
    error = refuse(write_spec(folder, validation={"validators": ["non_empty", 5]}))
    assert [line.partition(": ")[2] for line in error.splitlines()] == [
        "validation.validators.1: found 5; expected: text",
        "validation.validators.1: found 5; expected: a mapping",
    ]


def test_custom_validator_is_accepted_without_import(folder: Path) -> None:
    [spec] = read_specs(write_spec(folder, validation={"validators": ["my_package.checks:is_table", {"max_words": 3}]}))
    assert spec.validation.validators == ("my_package.checks:is_table", {"max_words": 3})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"generation": {"max_tokns": 4}}, "generation.max_tokns: unknown field"),
        ({"validation": {"max_attempts": 0}}, "validation.max_attempts: found 0"),
        ({"validation": {"validators": ["nonempty"]}}, "validation.validators: unknown validator 'nonempty'"),
        ({"generation": []}, "generation: found []; expected: a mapping"),
        ({"adaptor": "chat"}, "adaptor: unknown field (found 'chat'); did you mean 'adapter'?"),
        ({"engine": ...}, "engine: missing"),
    ],
)
def test_error_in_profile_names_the_profile(folder: Path, section: dict[str, Any], message: str) -> None:
    content = {"name": "wrong", "engine": "echo", **section}
    path = folder / "profiles" / "wrong.yaml"
    write_yaml(path, **{field: value for field, value in content.items() if value is not ...})
    assert refuse(write_spec(folder, model="wrong")).startswith(f"{path}: {message}")


def test_custom_engine_and_adapter_are_accepted(folder: Path) -> None:
    write_yaml(folder / "profiles" / "odd.yaml", name="odd", engine="my_package.engine:Engine", adapter="third-party")
    [spec] = read_specs(write_spec(folder, model="odd"))
    assert (spec.model.engine, spec.model.adapter) == ("my_package.engine:Engine", "third-party")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping of fields at the top, found nothing"),
        ("- a\n- b\n", "expected a mapping of fields at the top, found ['a', 'b']"),
        ("model: [", "not valid YAML (line 1, column 9): while parsing"),
        ("model: 2020-13-45", "not valid YAML: month must be in 1..12"),
        ("model: !!python/name:os.system", "not valid YAML (line 1, column 8): could not determine a constructor"),
        ("model: a\nmodel: b\n", "line 2: model: duplicate key, first set in line 1; expected each key once"),
        ("1: a\n", "1: found 1; expected: a field name that is text"),
    ],
)
def test_file_without_a_mapping_is_rejected(folder: Path, text: str, message: str) -> None:
    path = folder / "specs" / "spec.yaml"
    path.write_text(text)
    assert f"{path}: {message}" in refuse(path)


def test_unreadable_spec_error_names_the_file(folder: Path) -> None:
    assert refuse(folder / "nope.yaml") == f"{folder}/nope.yaml: no such file"
    assert refuse(folder) == f"{folder}: cannot be read: Is a directory; expected a YAML file"
    (folder / "latin.yaml").write_bytes(b"model: \xe4")
    assert f"{folder}/latin.yaml: not UTF-8" in refuse(folder / "latin.yaml")
