"""Presets: engine options that the model profile does not set, chosen from the free GPU memory.

This module does not query NVML; ``gpus.py`` does. An option that the profile sets always takes precedence. Two kinds of engine
do not have a preset: an engine named by an import string chooses its own defaults, and the capacity of an endpoint (``openai``)
does not depend on the GPUs of this machine.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigError
from common.spec.models import ModelProfile
from workers.supervisor.gpus import Gpu

_GIB = 2**30

# Pairs (GiB free for one worker, batch size), largest first. Idle GPUs of 24, 16 and 8 GB report at least 21, 14 and 7 GiB
# free.
_HF_BATCH = ((21, 16), (14, 8), (7, 4), (0, 1))
# Pairs (GiB free, sequences). The GiB are the sum over all GPUs of a worker, because each GPU of a group holds a part of the
# cache.
_VLLM_SEQUENCES = ((40, 256), (20, 128), (10, 64), (0, 32))
# vLLM takes its share of the total GPU memory and refuses to start if that much is not free. It checks after CUDA has
# allocated its own memory, so a reserve is subtracted.
_VLLM_MAX_SHARE = 0.92
_VLLM_MIN_SHARE = 0.05
_VLLM_RESERVE_BYTES = 2 * _GIB

_ONE_GPU_ENGINES = ("echo", "hf", "openai")
_GROUP_OPTIONS = ("tensor_parallel_size", "pipeline_parallel_size")  # vLLM uses their product as the number of GPUs


@dataclass(frozen=True, slots=True)
class Choice:
    """The value of one engine option, and ``why`` it was chosen, as text for the log."""

    value: int | float
    why: str


@dataclass(frozen=True, slots=True)
class Preset:
    """The engine options chosen for one worker. ``memory`` describes the memory that they were chosen from, for the log."""

    memory: str
    choices: Mapping[str, Choice]

    @property
    def options(self) -> dict[str, Any]:
        return {name: choice.value for name, choice in self.choices.items()}

    def __str__(self) -> str:
        chosen = ", ".join(f"{name}={choice.value} ({choice.why})" for name, choice in self.choices.items())
        return f"{self.memory}: {chosen or 'no options chosen'}"


def choose_preset(profile: ModelProfile, gpus: Sequence[Gpu], *, replicas: int = 1) -> Preset:
    """Return the options for each of ``replicas`` workers that share ``gpus``. An empty ``gpus`` is a CPU slot.

    Raises ``ConfigError`` if the profile's engine cannot run on that number of GPUs.
    """
    _check_group(profile, gpus)
    choose = _CHOOSERS.get(profile.engine)
    choices = choose(gpus, replicas) if choose else {}
    if "pipeline_parallel_size" in profile.engine_options:
        choices.pop("tensor_parallel_size", None)  # the profile defines how the model is divided among the group
    kept = {name: choice for name, choice in choices.items() if name not in profile.engine_options}
    return Preset(describe_memory(gpus, replicas), kept)


def find_group_size(profile: ModelProfile) -> int | None:
    """Return the number of GPUs that the profile requires for each worker, or ``None`` if it does not set one.

    Raises ``ConfigError`` if an option is not a positive integer.
    """
    sizes = _list_group_options(profile)
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ConfigError(
                f"profile {profile.name}: engine_options.{name}: found {size!r}; expected a number of GPUs, 1 or more"
            )
    return math.prod(sizes.values()) if sizes else None


def describe_memory(gpus: Sequence[Gpu], replicas: int = 1) -> str:
    """Return a description such as ``79.1 GiB free of 80.0``, for the GPU with the least free memory."""
    if not gpus:
        return "no GPU"
    gpu = min(gpus, key=lambda one: one.free_bytes or 0)
    if gpu.free_bytes is None or gpu.total_bytes is None:
        return "NVML does not report the memory"
    per_gpu = f" on each of {len(gpus)} GPUs" if len(gpus) > 1 else ""
    divided = f", divided among {replicas}" if replicas > 1 else ""
    return f"{gpu.free_bytes / _GIB:.1f} GiB free of {gpu.total_bytes / _GIB:.1f}{per_gpu}{divided}"


def _check_group(profile: ModelProfile, gpus: Sequence[Gpu]) -> None:
    group = "+".join(str(gpu.index) for gpu in gpus)
    if len(gpus) > 1 and profile.engine in _ONE_GPU_ENGINES:
        raise ConfigError(
            f"--gpus {group}: the engine {profile.engine} of profile {profile.name} runs on one GPU; separate the GPUs "
            f"with commas (--gpus {group.replace('+', ',')}), or use engine: vllm, which divides a model among GPUs"
        )
    required = find_group_size(profile)
    if gpus and required is not None and required != len(gpus):
        options = " and ".join(f"{name}: {size}" for name, size in _list_group_options(profile).items())
        raise ConfigError(
            f"--gpus {group}: profile {profile.name} sets engine_options.{options}, but this slot has {len(gpus)}; use "
            f"--gpus all, which makes slots of {required}, join {required} GPUs with + (as in --gpus 0+1), or change the profile"
        )


def _list_group_options(profile: ModelProfile) -> dict[str, Any]:
    options = profile.engine_options if profile.engine == "vllm" else {}
    return {name: options[name] for name in _GROUP_OPTIONS if name in options}


def _choose_for_hf(gpus: Sequence[Gpu], replicas: int) -> dict[str, Choice]:
    available_bytes = _find_available_bytes(gpus, replicas)
    return {} if available_bytes is None else {"max_batch_size": _look_up(_HF_BATCH, available_bytes)}


def _choose_for_vllm(gpus: Sequence[Gpu], replicas: int) -> dict[str, Choice]:
    choices = {"tensor_parallel_size": Choice(len(gpus), "a group")} if len(gpus) > 1 else {}
    if (available_bytes := _find_available_bytes(gpus, replicas)) is None:
        return choices
    share = min(_find_share(gpu, replicas) for gpu in gpus)
    if share >= _VLLM_MIN_SHARE:  # otherwise keep vLLM's default, because its own error message explains the cause best
        choices["gpu_memory_utilization"] = Choice(share, "free memory")
    return {**choices, "max_num_seqs": _look_up(_VLLM_SEQUENCES, available_bytes * len(gpus))}


_CHOOSERS: dict[str, Callable[[Sequence[Gpu], int], dict[str, Choice]]] = {
    "hf": _choose_for_hf,
    "vllm": _choose_for_vllm,
}


def _find_available_bytes(gpus: Sequence[Gpu], replicas: int) -> float | None:
    """Return the bytes that one worker may use on each of its GPUs, or ``None`` if a GPU does not report its memory."""
    free = [gpu.free_bytes for gpu in gpus if gpu.free_bytes is not None]
    return min(free) / replicas if free and len(free) == len(gpus) else None


def _find_share(gpu: Gpu, replicas: int) -> float:
    """Return the fraction of a GPU's total memory that one worker may take, rounded down to hundredths."""
    free, total = gpu.free_bytes or 0, gpu.total_bytes or 1
    share = min(free / replicas - _VLLM_RESERVE_BYTES, _VLLM_MAX_SHARE * total / replicas) / total
    return math.floor(share * 100 + 1e-9) / 100


def _look_up(table: Sequence[tuple[int, int]], available_bytes: float) -> Choice:
    for gib, value in table:
        if available_bytes >= gib * _GIB:
            return Choice(value, f"from {gib} GiB up" if gib else f"below {table[-2][0]} GiB")
    raise AssertionError("a table ends with 0 GiB")
