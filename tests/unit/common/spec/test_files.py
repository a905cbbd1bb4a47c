"""Specs and profiles in YAML: search paths, ``--set`` and error messages."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import Field

from common.errors import ConfigError
from common.settings import get_settings
from common.spec import dataset_paths
from common.spec.files import (
    BUILT_IN_PROFILES,
    apply_change,
    check,
    find_profile,
    find_weights,
    load_yaml,
    read_profile,
    read_specs,
)
from common.spec.models import Spec


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a folder that contains a dataset and the profile ``mine``. The working directory is another folder."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "profiles").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "specs" / "rows.jsonl").write_text('{"question": "?"}\n')
    write_yaml(tmp_path / "profiles" / "mine.yaml", name="mine", engine="echo", generation={"max_tokens": 7, "temperature": 0.5})
    monkeypatch.setenv("FLEET_PROFILES_DIR", str(tmp_path / "profiles"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


def write_yaml(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def write_spec(folder: Path, **changes: Any) -> Path:
    content = {"model": "mine", "datasets": [{"path": "rows.jsonl"}], **changes}
    return write_yaml(folder / "specs" / "spec.yaml", **{field: value for field, value in content.items() if value is not ...})


def refuse(path: Path, *changes: str) -> str:
    """Return the error message for an invalid spec."""
    with pytest.raises(ConfigError) as caught:
        read_specs(path, changes)
    return str(caught.value)


# Resolving


def test_spec_overrides_profile_and_profile_overrides_defaults(folder: Path) -> None:
    [spec] = read_specs(write_spec(folder, generation={"max_tokens": 9}, shuffle={"seed": 5}))
    assert (spec.generation.max_tokens, spec.generation.temperature, spec.generation.top_p) == (9, 0.5, 1.0)
    assert (spec.shuffle.seed, spec.chunks.max_samples, spec.validation.validators) == (5, 64, ("non_empty",))


def test_each_model_becomes_one_run(folder: Path) -> None:
    specs = read_specs(write_spec(folder, model=..., models=["mine", "echo"]))
    assert [spec.model.name for spec in specs] == ["mine", "echo"]
    assert [spec.generation.max_tokens for spec in specs] == [7, 16]
    assert len({spec.run_id for spec in specs}) == 2


def test_run_id_ignores_dataset_folder_and_file_name(folder: Path) -> None:
    [here] = read_specs(write_spec(folder))
    (folder / "elsewhere" / "copy.jsonl").write_bytes((folder / "specs" / "rows.jsonl").read_bytes())
    [there] = read_specs(write_spec(folder, datasets=[{"path": str(folder / "elsewhere" / "copy.jsonl"), "name": "rows"}]))
    assert there.datasets[0].path != here.datasets[0].path
    assert there.run_id == here.run_id
    (folder / "specs" / "rows.jsonl").write_text('{"question": "!"}\n')
    [changed] = read_specs(write_spec(folder))
    assert changed.run_id != here.run_id


def test_run_id_ignores_capacity_options(folder: Path) -> None:
    [before] = read_specs(write_spec(folder))
    write_yaml(
        folder / "profiles" / "mine.yaml",
        name="mine",
        engine="echo",
        engine_options={"delay_s": 1},
        generation={"temperature": 0.5, "max_tokens": 7},
    )
    [after] = read_specs(write_spec(folder))
    assert after.model.engine_options == {"delay_s": 1}
    assert after.run_id == before.run_id


def test_dataset_path_is_relative_to_spec_then_cwd(folder: Path) -> None:
    (folder / "elsewhere" / "rows.jsonl").write_text("{}\n")
    (folder / "elsewhere" / "only-here.jsonl").write_text("{}\n")
    [spec] = read_specs(write_spec(folder, datasets=[{"path": "rows.jsonl"}, {"path": "only-here.jsonl"}]))
    assert [source.path for source in spec.datasets] == [
        str(folder / "specs" / "rows.jsonl"),
        str(folder / "elsewhere" / "only-here.jsonl"),
    ]


def test_media_root_is_absolute_and_defaults_to_dataset(folder: Path) -> None:
    [spec] = read_specs(
        write_spec(folder, datasets=[{"path": "rows.jsonl"}, {"path": "rows.jsonl", "name": "b", "media_root": "../m"}])
    )
    assert [source.media_root for source in spec.datasets] == [str(folder / "specs"), str(folder / "m")]


def test_missing_dataset_error_lists_searched_paths(folder: Path) -> None:
    message = refuse(write_spec(folder, datasets=[{"path": "rows.jsonl"}, {"path": "row.jsonl"}]))
    assert message == (
        f"{folder}/specs/spec.yaml: datasets.1.path: no file 'row.jsonl'; "
        f"looked at {folder}/specs/row.jsonl, {folder}/elsewhere/row.jsonl; expected a dataset's file"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"path": "../elsewhere", "name": "a"},
            r"datasets\.0\.path: no file '.*'; looked at .*; it is an empty folder; expected .*",
        ),
        ({"path": "*.jsonl.gz", "name": "a"}, r"datasets\.0\.path: no file matches '\*\.jsonl\.gz'; looked at .*; expected .*"),
        ({"path": ["rows.jsonl", 5]}, r"datasets\.0: path: found \['rows.jsonl', 5\]; expected the path of a file, or a list .*"),
        (
            {"path": "../{specs}/x", "name": "a"},
            r"datasets\.0\.path: no file matches '\.\./\{specs\}/x'; looked at .*; expected .*",
        ),
        ({"path": "{a,b}.tar", "name": "a"}, r"datasets\.0\.path: no file matches '\{a,b\}\.tar'; looked at .*; expected .*"),
        ({"path": "*.tar", "name": "a"}, r"datasets\.0\.path: no file matches '\*\.tar'; looked at .*; expected .*"),
        ({"path": "rows.jsonl", "annotations": "none"}, r"datasets\.0\.annotations: no file 'none'; looked at .*; expected .*"),
        ({"path": "rows.jsonl", "annotations": "a\0b"}, r"datasets\.0: found a NUL character in annotations; .*"),
        ({"path": "x" * 5000, "name": "a"}, r"datasets\.0\.path: no file 'x+\.\.\.; looked at .*; expected a dataset's file"),
        ({"path": "a\0b", "name": "a"}, r"datasets\.0: found a NUL character in path or media_root; .*"),
        ({"path": "rows.jsonl", "media_root": "a\0b"}, r"datasets\.0: found a NUL character in path or media_root; .*"),
    ],
)
def test_dataset_path_must_be_a_file(folder: Path, source: dict[str, Any], message: str) -> None:
    assert re.fullmatch(rf"{folder}/specs/spec\.yaml: {message}", refuse(write_spec(folder, datasets=[source])))


def test_unreadable_dataset_error_names_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(dataset_paths, "digest_content", deny)
    assert f"datasets.0.path: {folder}/specs/rows.jsonl cannot be read: Permission denied" in refuse(write_spec(folder))


def test_overlong_profile_name_is_not_found(folder: Path) -> None:
    assert "not found" in refuse(write_spec(folder, model="m" * 5000))


# Errors


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


# Known fields at any depth


class Leaf(Spec):
    size: int = 0


class Other(Spec):
    colour: str = ""


class Tree(Spec):
    one: Leaf = Leaf()
    maybe: Leaf | None = None
    either: Leaf | Other = Leaf()
    fixed: tuple[Leaf, Other] | None = None
    many: tuple[Leaf, ...] = ()
    listed: list[Leaf | int] = Field(default_factory=list)
    named: dict[str, Leaf] = Field(default_factory=dict)
    deep: dict[str, list[tuple[Leaf | None, ...]]] = Field(default_factory=dict)
    choice: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("raw", "messages"),
    [
        ({"one": {"sise": 1}}, ["one.sise: size"]),
        ({"maybe": {"sise": 1}}, ["maybe.sise: size"]),
        ({"many": [{}, {"sise": 1}]}, ["many.1.sise: size"]),
        ({"named": {"oak": {"sise": 1}}}, ["named.oak.sise: size"]),
        ({"named": {"one": {"sise": 1}}}, ["named.one.sise: size"]),
        ({"fixed": [{"sise": 1}, {}]}, ["fixed.0.sise: colour, size"]),
        ({"either": {"sise": 1}}, ["either.sise: size", "either.sise: colour"]),
        ({"deep": {"a": [[None, {"sise": 1}]]}}, ["deep.a.0.1.sise: size"]),
        ({"listed": [3, {"sise": 1}]}, ["listed.1.sise: size"]),
    ],
)
def test_known_fields_are_found_in_nested_types(raw: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check(Tree, raw, "tree.yaml", at="wood")
    unknown = [line for line in str(caught.value).splitlines() if "unknown field" in line]
    assert [re.sub(r"tree\.yaml: wood\.(\S+:) .*known fields: (.*)", r"\1 \2", line) for line in unknown] == messages


def test_check_returns_the_valid_model() -> None:
    assert check(Tree, {"either": {"colour": "red"}}, "tree.yaml").either == Other(colour="red")


# --set


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("generation.max_tokens=64", {"generation": {"max_tokens": 64}}),
        ("shuffle.seed=3", {"shuffle": {"seed": 3}}),
        ("datasets.1.limit=50", {"datasets": [{"path": "a"}, {"path": "b", "limit": 50}]}),
        ("datasets.0={path: c}", {"datasets": [{"path": "c"}, {"path": "b"}]}),
        ("datasets.0.fields.id=qid", {"datasets": [{"path": "a", "fields": {"id": "qid"}}, {"path": "b"}]}),
        ("model=a=b", {"model": "a=b"}),
        ("generation.stop=['\\n', x]", {"generation": {"stop": ["\\n", "x"]}}),
        ("generation.seed=", {"generation": {"seed": None}}),
    ],
)
def test_set_option_changes_any_field(change: str, expected: dict[str, Any]) -> None:
    raw: dict[str, Any] = {"datasets": [{"path": "a"}, {"path": "b"}], "generation": None}
    apply_change(raw, change)
    assert {name: raw[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("generation.max_tokens", "expected FIELD=VALUE, for example generation.max_tokens=64"),
        ("=5", "expected FIELD=VALUE"),
        ("generation..seed=5", "expected FIELD=VALUE"),
        (".seed=5", "expected FIELD=VALUE"),
        ("model.name=x", "'model' is a plain value and has no fields"),
        ("datasets.2.limit=5", "'2' is not an index into a list of 2"),
        ("datasets.-1.limit=5", "'-1' is not an index into a list of 2"),
        ("datasets.².limit=5", "'²' is not an index into a list of 2"),
        ("datasets.rows=5", "'rows' is not an index into a list of 2"),
        ("model=[", "not valid YAML"),
    ],
)
def test_invalid_set_option_is_rejected(change: str, message: str) -> None:
    raw = {"model": "tiny", "datasets": [{"path": "a"}, {"path": "b"}]}
    with pytest.raises(ConfigError, match=re.escape(f"--set {change!r}: {message}")):
        apply_change(raw, change)


def test_set_options_are_validated_and_change_run_id(folder: Path) -> None:
    path = write_spec(folder)
    assert f"{path}: generation.max_tokns: unknown field" in refuse(path, "generation.max_tokns=4")
    [plain], [changed], [same] = (read_specs(path, changes) for changes in ((), ("shuffle.seed=1",), ("shuffle.seed=0",)))
    assert plain.run_id == same.run_id != changed.run_id


# Profiles and weights


def test_unknown_profile_suggests_name_and_lists_paths(folder: Path) -> None:
    error = refuse(write_spec(folder, model="eco"))
    assert "model profile 'eco' not found; did you mean 'echo'?" in error
    assert f"looked at: {folder}/profiles/eco.yaml, {BUILT_IN_PROFILES}/eco.yaml" in error
    assert "known profiles: " in error
    assert {"echo", "mine", "tiny"} <= set(error.partition("known profiles: ")[2].split(", "))


def test_custom_profile_overrides_built_in_profile(folder: Path) -> None:
    own = write_yaml(folder / "profiles" / "echo.yaml", name="echo", engine="echo", generation={"max_tokens": 1})
    assert find_profile("echo") == own
    assert read_profile("echo").generation == {"max_tokens": 1}


def test_profile_path_is_relative_to_spec_then_cwd(folder: Path) -> None:
    write_yaml(folder / "elsewhere" / "p.yaml", name="current", engine="echo")
    assert read_specs(write_spec(folder, model="p.yaml"))[0].model.name == "current"
    write_yaml(folder / "specs" / "p.yaml", name="beside", engine="echo")
    assert read_specs(write_spec(folder, model="p.yaml"))[0].model.name == "beside"


@pytest.mark.parametrize("path", sorted(BUILT_IN_PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_built_in_profile_name_matches_file_name(path: Path) -> None:
    assert read_profile(path.stem).name == path.stem


def test_weights_are_a_relative_folder_or_hub_id(folder: Path) -> None:
    path = folder / "profiles" / "w.yaml"
    (folder / "weights").mkdir()
    for weights, found in (
        ("../weights", f"{folder}/weights"),
        (f"{folder}/weights", f"{folder}/weights"),
        ("org/model", "org/model"),
    ):
        write_yaml(path, name="w", engine="hf", weights=weights)
        assert find_weights(read_profile("w"), profile_path=path) == found
    write_yaml(path, name="w", engine="hf", weights="./nowhere")
    with pytest.raises(ConfigError, match=r"w\.yaml: weights: .*/profiles/nowhere is not a folder"):
        find_weights(read_profile("w"), profile_path=path)


def test_load_yaml_returns_the_mapping(folder: Path) -> None:
    assert load_yaml(folder / "profiles" / "mine.yaml")["generation"] == {"max_tokens": 7, "temperature": 0.5}


@pytest.mark.parametrize(
    "section", ["datasets: [{path: rows.jsonl, pathh: x}]", "datasets: [{path: rows.jsonl}]\nprompt: {examples: [{pathh: x}]}"]
)
def test_fields_of_resolved_specs_are_not_suggested(tmp_path: Path, section: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(f"model: echo\n{section}\n")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError) as caught:
        read_specs(path)
    known = [line.partition("known fields: ")[2].split(", ") for line in str(caught.value).splitlines()]
    assert any("path" in names or "question" in names for names in known)
    assert not {"digest", "digests", "files", "found_kind", "media_digest"} & {name for names in known for name in names}
