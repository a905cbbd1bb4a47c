"""Run specs: the fields that determine the run id, and invalid specs."""

from typing import Any

import pytest
from pydantic import ValidationError

from common.spec.models import Chunks, DatasetSource, ModelProfile, RunFile, RunSpec, SamplingParams, Shuffle, Validation


def make_spec(**changes: Any) -> RunSpec:
    """Return a spec. ``model__weights`` changes a field of the model; ``datasets__limit`` changes a field of the dataset."""
    parts: dict[str, dict[str, Any]] = {
        "model": {"name": "tiny", "engine": "hf", "weights": "./model"},
        "datasets": {"path": "/data/digits.tsv", "name": "digits", "media_root": "/data", "digest": "d1"},
        "generation": {"max_tokens": 32},
        "validation": {"validators": ("non_empty", {"max_words": 30})},
        "shuffle": {"seed": 1},
        "chunks": {},
    }
    for change, value in changes.items():
        part, _, field = change.partition("__")
        parts[part][field] = value
    return RunSpec(
        model=ModelProfile(**parts["model"]),
        datasets=(DatasetSource(**parts["datasets"]),),
        generation=SamplingParams(**parts["generation"]),
        validation=Validation(**parts["validation"]),
        shuffle=Shuffle(**parts["shuffle"]),
        chunks=Chunks(**parts["chunks"]),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"datasets__path": "/elsewhere/digits-copy.tsv"},
        {"datasets__media_root": "/elsewhere"},
        {"model__engine_options": {"max_batch_size": 4, "device": "cpu"}},
        {"model__generation": {"max_tokens": 999}},  # a default: only the resolved value counts
        {"model__validation": {"validators": []}},
        {"generation__temperature": 0},
        {"chunks__max_samples": 64},
    ],
)
def test_change_outside_the_request_keeps_run_id(change: dict[str, Any]) -> None:
    assert make_spec(**change).run_id == make_spec().run_id


@pytest.mark.parametrize(
    "change",
    [
        {"datasets__digest": "d2"},
        {"datasets__name": "other"},
        {"datasets__limit": 10},
        {"datasets__fields": {"id": "qid"}},
        {"datasets__kind": "yes_no"},
        {"datasets__format": "tsv"},
        {"generation__max_tokens": 33},
        {"generation__temperature": 0.1},
        {"generation__seed": 1},
        {"generation__stop": ("\n",)},
        {"validation__max_attempts": 1},
        {"validation__validators": ({"max_words": 30}, "non_empty")},
        {"shuffle__seed": 2},
        {"chunks__max_samples": 32},
        {"chunks__max_input_bytes": 1000},
        {"model__name": "tiny2"},
        {"model__engine": "vllm"},
        {"model__weights": "./model2"},
        {"model__revision": "abc"},
        {"model__adapter": "qwen"},
        {"model__engine_options": {"dtype": "bfloat16"}},
        {"model__engine_options": {"gpu_memory_utilization": 0.5}},  # hf does not have this option, and unlisted options count
    ],
)
def test_change_of_the_request_changes_run_id(change: dict[str, Any]) -> None:
    assert make_spec(**change).digest() != make_spec().digest()


def test_run_id_is_model_name_and_stable_digest() -> None:
    spec = make_spec()
    assert spec.run_id == f"tiny-{spec.digest()[:12]}"
    assert spec.digest() == "30b40014263e8d613e465551e2408201"
    assert RunSpec.model_validate_json(spec.model_dump_json()).digest() == spec.digest()


def test_dataset_name_defaults_to_the_file_name() -> None:
    assert DatasetSource(path="data/digits.tsv").name == "digits"
    assert DatasetSource(path="data/digits.tsv", name="held-out").name == "held-out"


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "ä", "a\n", "x" * 65])
def test_invalid_name_is_rejected_with_expected_form(name: str) -> None:
    with pytest.raises(ValidationError, match=r"found .*; expected at most 64 letters, digits, '\.', '_' and '-'"):
        ModelProfile(name=name, engine="echo")


@pytest.mark.parametrize("name", ["a", "7b", "Qwen2.5-VL_7B", "x" * 64])
def test_valid_names_are_accepted(name: str) -> None:
    assert ModelProfile(name=name, engine="echo").name == name


ROWS = {"path": "rows.jsonl"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"datasets": [ROWS]}, r"give either model: NAME or models: \[NAME, \.\.\.\]"),
        ({"model": "a", "models": ["b"], "datasets": [ROWS]}, "give either model"),
        ({"models": [], "datasets": [ROWS]}, "give either model"),
        ({"model": "a", "datasets": []}, "datasets: found none; expected at least one"),
        ({"model": "a", "datasets": [ROWS, {"path": "other/rows.tsv"}]}, "two datasets are called 'rows'"),
    ],
)
def test_contradictory_run_file_is_rejected(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RunFile.model_validate(content)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (SamplingParams, {"max_tokens": 0}),
        (SamplingParams, {"temperature": -1}),
        (SamplingParams, {"top_p": 1.5}),
        (Validation, {"max_attempts": 0}),
        (Validation, {"max_attempts": 21}),
        (Chunks, {"max_samples": 0}),
        (Chunks, {"max_input_bytes": 0}),
        (DatasetSource, {"path": "a", "limit": 0}),
        (DatasetSource, {"path": "a", "kind": "essay"}),
    ],
)
def test_values_out_of_range_are_rejected(model: type[SamplingParams], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model(**fields)
