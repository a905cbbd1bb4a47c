"""Built-in model profiles: checks that do not need a GPU, and the table in ``docs/models.md``."""

import re
from pathlib import Path
from typing import Any

import pytest

from common.spec.files import BUILT_IN_PROFILES, check_validation, read_profile
from common.spec.models import ModelProfile
from workers.adapters import load_adapter
from workers.engines.registry import ENGINES, load_engine

PROFILES = {path.stem: read_profile(path.stem) for path in sorted(BUILT_IN_PROFILES.glob("*.yaml"))}
FAMILIES = {name: profile for name, profile in PROFILES.items() if name not in ("echo", "tiny")}  # for tests and demos
PAGE = Path(__file__).parents[4] / "docs" / "models.md"

# The validators for the known weaknesses of each family, by adapter. The table is in workers/adapters/registry.py.
VALIDATORS = {
    "chat": ("non_empty", "no_refusal", "answer_extractable"),
    "glm4v": ("non_empty", "answer_extractable", "no_repetition", "finished"),
    "idefics": ("non_empty", "no_refusal", "answer_extractable"),
    "internvl": ("non_empty", "no_refusal"),
    "mmada": ("non_empty", "no_image_token"),
    "qwen": ("non_empty", "answer_extractable"),
    "thyme": ("non_empty", "answer_extractable"),
}
# The fields of AsyncEngineArgs in vLLM that profiles may set. This test runs without vLLM.
VLLM_OPTIONS = {
    *("enable_expert_parallel", "limit_mm_per_prompt", "max_model_len", "mm_encoder_tp_mode", "mm_processor_kwargs"),
    "tensor_parallel_size",
}


def read_rows() -> dict[str, list[str]]:
    """Return the cells of each table row, by profile."""
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len({name for name, _ in rows}) == len(rows)
    return {name: [cell.strip().strip("`") for cell in cells.split("|")] for name, cells in rows}


def find_validators(profile: ModelProfile) -> tuple[Any, ...]:
    return check_validation(profile.validation, profile.name).validators


@pytest.mark.parametrize("name", PROFILES)
def test_profile_matches_file_name_and_known_adapter(name: str) -> None:
    assert PROFILES[name].name == name
    load_adapter(PROFILES[name].adapter)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_profiles_set_validators_and_retries(name: str) -> None:
    profile = FAMILIES[name]
    expected = VALIDATORS[profile.adapter]
    assert find_validators(profile)[: len(expected)] == expected
    assert profile.validation["max_attempts"] == 4


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.engine != "vllm"])
def test_engine_accepts_the_profile_options(name: str) -> None:
    load_engine(PROFILES[name], PROFILES[name].weights or name)


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.engine == "vllm"])
def test_vllm_profile_sets_only_known_options(name: str) -> None:
    options = PROFILES[name].engine_options
    assert options.keys() <= VLLM_OPTIONS
    # Without these two options, vLLM reserves memory for the longest possible input.
    assert options.keys() >= {"max_model_len", "limit_mm_per_prompt"}


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.engine == "vllm"])
def test_engine_accepts_all_frames_without_rescaling(name: str) -> None:
    options, media = PROFILES[name].engine_options, PROFILES[name].media
    assert options["limit_mm_per_prompt"]["image"] >= media.max_frames
    assert options.get("mm_processor_kwargs", {}) == media.model_dump(exclude_defaults=True, include={"min_pixels", "max_pixels"})


@pytest.mark.parametrize("name", FAMILIES)
def test_families_do_not_trust_remote_code(name: str) -> None:
    assert not FAMILIES[name].trust_remote_code


def test_models_page_lists_exactly_the_profiles() -> None:
    assert set(read_rows()) == set(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_models_page_matches_each_profile(name: str) -> None:
    profile = PROFILES[name]
    _family, weights, engine, adapter, validators, gpus, _notes = read_rows()[name]
    shown = profile.engine if profile.engine in ENGINES else profile.engine.partition(":")[2]
    assert (weights, engine, adapter) == (profile.weights or "–", shown, profile.adapter)
    assert validators == ", ".join(find_validators(profile))
    parallel = profile.engine_options.get("tensor_parallel_size", 1)
    assert gpus == "none" or gpus.startswith(f"{parallel} × ")
