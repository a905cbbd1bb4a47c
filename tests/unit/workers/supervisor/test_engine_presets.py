"""Engine options by free GPU memory: chosen values, their reasons and options that the profile sets."""

from typing import Any

import pytest

from common.errors import ConfigError
from common.spec.identity import list_capacity_options
from common.spec.models import ModelProfile
from tests.support.hardware.fake_gpus import make_gpu
from workers.engines.hf.model import HfOptions
from workers.supervisor.engine_presets import choose_preset, find_group_size


def make_profile(engine: str, **options: Any) -> ModelProfile:
    return ModelProfile(name="some", engine=engine, engine_options=options)


def choose(
    engine: str, *free_gib: float | None, total_gib: float | None = 80.0, replicas: int = 1, **options: Any
) -> dict[str, Any]:
    gpus = [make_gpu(index, free_gib=free, total_gib=total_gib) for index, free in enumerate(free_gib)]
    return choose_preset(make_profile(engine, **options), gpus, replicas=replicas).options


@pytest.mark.parametrize(
    ("free_gib", "size"), [(139.0, 16), (79.1, 16), (22.0, 16), (21.0, 16), (20.9, 8), (14.6, 8), (13.0, 4), (7.6, 4), (6.0, 1)]
)
def test_hf_batch_size_follows_free_memory(free_gib: float, size: int) -> None:
    assert choose("hf", free_gib) == {"max_batch_size": size}


def test_hf_preset_is_valid_engine_options() -> None:
    assert HfOptions.model_validate(choose("hf", 79.1)).max_batch_size == 16


@pytest.mark.parametrize("engine", ["vllm", "hf", "openai", "echo", "mmada", "my_package.engine:Mine"])
@pytest.mark.parametrize("free_gib", [(), (79.1,), (3.0,), (None,), (79.1, 60.0)])
def test_preset_has_only_capacity_options(engine: str, free_gib: tuple[float | None, ...]) -> None:
    if len(free_gib) < 2 or engine == "vllm":  # the other engines run on one GPU
        assert choose(engine, *free_gib).keys() <= list_capacity_options(engine)


@pytest.mark.parametrize(
    ("free_gib", "total_gib", "share", "sequences"),
    [
        (79.1, 80.0, 0.92, 256),  # idle: at most the default of vLLM
        (139.5, 141.0, 0.92, 256),
        (40.0, 80.0, 0.47, 256),  # another process uses half of the memory
        (23.5, 24.0, 0.89, 128),
        (14.5, 15.0, 0.83, 64),
        (7.8, 8.0, 0.72, 32),
    ],
)
def test_vllm_memory_share_follows_free_memory(free_gib: float, total_gib: float, share: float, sequences: int) -> None:
    assert choose("vllm", free_gib, total_gib=total_gib) == {"gpu_memory_utilization": share, "max_num_seqs": sequences}


def test_memory_share_is_omitted_on_full_gpu() -> None:
    assert choose("vllm", 3.0) == {"max_num_seqs": 32}


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_replicas_fit_into_free_memory_with_reserves(replicas: int) -> None:
    options = choose("vllm", 79.1, replicas=replicas)
    assert replicas * (options["gpu_memory_utilization"] * 80.0 + 1.5) <= 79.1
    assert options["gpu_memory_utilization"] > 0.85 / replicas - 0.02
    assert choose("hf", 44.0, replicas=2) == {"max_batch_size": 16}
    assert choose("hf", 44.0, replicas=3) == {"max_batch_size": 8}


def test_group_uses_memory_of_its_fullest_gpu() -> None:
    assert choose("vllm", 79.0, 30.0) == {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.35, "max_num_seqs": 256}
    assert choose("vllm", 23.6, 23.6, total_gib=24.0)["max_num_seqs"] == 256, "the cache spans both GPUs"
    text = str(choose_preset(make_profile("vllm"), [make_gpu(1), make_gpu(2, free_gib=60)]))
    assert text.startswith("60.0 GiB free of 80.0 on each of 2 GPUs: tensor_parallel_size=2 (a group), gpu_memory_utilization=0.7")


def test_preset_text_states_the_reasons() -> None:
    text = str(choose_preset(make_profile("vllm"), [make_gpu(0)]))
    assert text == "79.1 GiB free of 80.0: gpu_memory_utilization=0.92 (free memory), max_num_seqs=256 (from 40 GiB up)"
    text = str(choose_preset(make_profile("hf"), [make_gpu(0, free_gib=12)], replicas=2))
    assert text == "12.0 GiB free of 80.0, divided among 2: max_batch_size=1 (below 7 GiB)"
    assert str(choose_preset(make_profile("hf", max_batch_size=3), [make_gpu(0)])) == "79.1 GiB free of 80.0: no options chosen"
    assert str(choose_preset(make_profile("hf"), [])) == "no GPU: no options chosen"


def test_profile_options_override_the_preset() -> None:
    assert choose("hf", 79.1, max_batch_size=2) == {}
    assert choose("vllm", 79.1, gpu_memory_utilization=0.5) == {"max_num_seqs": 256}
    assert choose("vllm", 79.1, 79.1, tensor_parallel_size=2, max_num_seqs=8) == {"gpu_memory_utilization": 0.92}
    pipeline = {"pipeline_parallel_size": 2, "tensor_parallel_size": 1}
    assert choose("vllm", 79.1, 79.1, **pipeline) == {"gpu_memory_utilization": 0.92, "max_num_seqs": 256}
    assert "tensor_parallel_size" not in choose("vllm", 79.1, 79.1, pipeline_parallel_size=2)


@pytest.mark.parametrize("free_gib", [(79.1,), ()])
def test_other_engines_do_not_get_a_preset(free_gib: tuple[float, ...]) -> None:
    assert choose("my_package.my_engine:MyEngine", *free_gib) == {}
    assert choose("echo", *free_gib) == choose("openai", *free_gib) == {}


def test_preset_is_empty_without_memory_report() -> None:
    assert choose("hf") == choose("vllm") == choose("hf", None, total_gib=None) == choose("vllm", None, total_gib=None) == {}
    assert choose("vllm", None, None, total_gib=None) == {"tensor_parallel_size": 2}
    text = str(choose_preset(make_profile("vllm"), [make_gpu(0, free_gib=None, total_gib=None)]))
    assert text == "NVML does not report the memory: no options chosen"


@pytest.mark.parametrize("engine", ["hf", "openai", "echo"])
def test_single_gpu_engines_reject_a_group(engine: str) -> None:
    with pytest.raises(ConfigError, match=rf"--gpus 0\+1: the engine {engine} of profile some runs on one GPU.*--gpus 0,1"):
        choose(engine, 79.1, 79.1)


@pytest.mark.parametrize(("size", "free_gib"), [(4, (79.1, 79.1)), (2, (79.1,)), (1, (79.1, 79.1))])
def test_group_of_wrong_size_is_rejected(size: int, free_gib: tuple[float, ...]) -> None:
    message = rf"tensor_parallel_size: {size}, but this slot has {len(free_gib)}; use --gpus all, which makes slots of {size}, join"
    with pytest.raises(ConfigError, match=message):
        choose("vllm", *free_gib, tensor_parallel_size=size)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, None),
        ({"tensor_parallel_size": 4}, 4),
        ({"pipeline_parallel_size": 2}, 2),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 2}, 8),
    ],
)
def test_group_size_is_product_of_parallel_sizes(options: dict[str, int], size: int | None) -> None:
    assert find_group_size(make_profile("vllm", **options)) == size
    assert find_group_size(make_profile("my_package.my_engine:MyEngine", **options)) is None


def test_tensor_and_pipeline_parallel_need_every_gpu() -> None:
    pipeline = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}
    message = r"--gpus 0\+1: .*tensor_parallel_size: 4 and pipeline_parallel_size: 2, but this slot has 2; .* makes slots of 8"
    with pytest.raises(ConfigError, match=message):
        choose("vllm", 79.1, 79.1, **pipeline)
    with pytest.raises(ConfigError, match="pipeline_parallel_size: 2, but this slot has 1"):
        choose("vllm", 79.1, pipeline_parallel_size=2)
    assert choose("vllm", *[79.1] * 8, **pipeline) == {"gpu_memory_utilization": 0.92, "max_num_seqs": 256}


@pytest.mark.parametrize("size", [0, -1, "2", 1.5, None])
def test_invalid_parallel_size_names_its_field(size: Any) -> None:
    with pytest.raises(ConfigError, match=r"profile some: engine_options\.tensor_parallel_size: found .*expected a number of GPUs"):
        find_group_size(make_profile("vllm", tensor_parallel_size=size))


def test_group_profile_may_run_on_cpu() -> None:
    assert choose("vllm", tensor_parallel_size=2) == {}


def test_custom_engines_may_use_a_group() -> None:
    assert choose("my_package.my_engine:MyEngine", 79.1, 79.1) == {}
