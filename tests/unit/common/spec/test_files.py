"""Specs and profiles in YAML: search paths, ``--set`` and error messages."""

import re
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from common.spec import dataset_paths
from common.spec.files import (
    BUILT_IN_PROFILES,
    apply_change,
    find_profile,
    find_weights,
    load_yaml,
    read_profile,
    read_specs,
)
from tests.support.spec_files import folder, refuse, write_spec, write_yaml

__all__ = ["folder"]  # a fixture


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
