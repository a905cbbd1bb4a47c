"""Engine options that change the run id: all options except capacity options."""

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.spec.identity import CAPACITY_OPTIONS, find_engine_name, list_capacity_options
from common.spec.models import Chunks, DatasetSource, ModelProfile, RunSpec, SamplingParams, Shuffle, Spec, Validation
from tests.support.engines.vllm_cpu.environment import PACKAGES
from workers.engines.echo import EchoOptions
from workers.engines.hf.model import HfOptions
from workers.engines.mmada import MmadaOptions
from workers.engines.openai.options import OpenAIOptions
from workers.engines.registry import ENGINES, MOVED

OPTIONS: dict[str, type[Spec]] = {"echo": EchoOptions, "hf": HfOptions, "mmada": MmadaOptions, "openai": OpenAIOptions}
ENGINE_ARGS = PACKAGES / "vllm" / "engine" / "arg_utils.py"
IDENTITY_OF_VLLM = (
    "dtype", "quantization", "kv_cache_dtype", "max_model_len", "mm_processor_kwargs", "hf_overrides", "limit_mm_per_prompt",
    "tokenizer", "tokenizer_revision", "enable_prefix_caching", "attention_backend", "speculative_config", "load_format", "seed",
    "generation_config", "override_generation_config", "media_io_kwargs", "an_option_of_a_later_version",
)  # fmt: skip
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CAPACITY = sorted((engine, name) for engine in CAPACITY_OPTIONS for name in list_capacity_options(engine))
IDENTITY = [
    *((engine, name) for engine, model in OPTIONS.items() for name in model.model_fields if (engine, name) not in CAPACITY),
    *(("vllm", name) for name in IDENTITY_OF_VLLM),
    ("my_package.engine:Mine", "max_batch_size"),
]


def find_run_id(engine: str, options: dict[str, Any]) -> str:
    return RunSpec(
        model=ModelProfile(name="some", engine=engine, engine_options=options),
        datasets=(DatasetSource(path="rows.jsonl", digest="1"),),
        generation=SamplingParams(),
        validation=Validation(),
        shuffle=Shuffle(),
        chunks=Chunks(),
    ).run_id


@pytest.mark.parametrize(("engine", "name"), IDENTITY)
def test_identity_option_changes_run_id(engine: str, name: str) -> None:
    assert len({find_run_id(engine, {}), find_run_id(engine, {name: 1}), find_run_id(engine, {name: "1"})}) == 3


@given(option=st.sampled_from(IDENTITY), first=ANY_VALUE, second=ANY_VALUE)
def test_run_id_depends_on_identity_option_value(option: tuple[str, str], first: Any, second: Any) -> None:
    engine, name = option
    is_same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (find_run_id(engine, {name: second}) == find_run_id(engine, {name: first})) == is_same


@pytest.mark.parametrize(("engine", "name"), CAPACITY)
def test_capacity_option_keeps_run_id(engine: str, name: str) -> None:
    assert find_run_id(engine, {name: 1}) == find_run_id(engine, {})


@given(option=st.sampled_from(CAPACITY), value=ANY_VALUE)
def test_run_id_ignores_capacity_option_value(option: tuple[str, str], value: Any) -> None:
    engine, name = option
    assert find_run_id(engine, {"dtype": "float32", name: value}) == find_run_id(engine, {"dtype": "float32"})


@pytest.mark.parametrize(("engine", "name"), CAPACITY)
def test_capacity_option_exists_in_its_engine(engine: str, name: str) -> None:
    if engine != "vllm":
        assert name in OPTIONS[engine].model_fields
        return
    if not ENGINE_ARGS.is_file():
        pytest.skip("vLLM for CPUs is not installed")
    assert name in list_engine_args(ENGINE_ARGS)


@cache
def list_engine_args(source: Path) -> set[str]:
    """Return the fields of ``AsyncEngineArgs``. Parse vLLM's source because the import of vLLM is slow."""
    classes = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)]
    bodies = [line for node in classes if node.name in ("EngineArgs", "AsyncEngineArgs") for line in node.body]
    return {line.target.id for line in bodies if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)}


def test_capacity_option_has_one_reason() -> None:
    for engine, reasons in CAPACITY_OPTIONS.items():
        assert sum(map(len, reasons.values())) == len(list_capacity_options(engine))


@pytest.mark.parametrize("path", [*ENGINES.values(), *MOVED, *MOVED.values()])
def test_import_string_maps_to_its_engine(path: str) -> None:
    assert find_engine_name(path) in CAPACITY_OPTIONS


def test_every_built_in_engine_is_listed() -> None:
    assert {*ENGINES, "mmada"} == set(CAPACITY_OPTIONS)


def test_identity_page_lists_capacity_options() -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "identity.md").read_text()
    for engine, reasons in CAPACITY_OPTIONS.items():
        names = [f"`{name}`" for options in reasons.values() for name in sorted(options)]
        assert f"| `{engine}` | {', '.join(names) or 'none'} |" in page
