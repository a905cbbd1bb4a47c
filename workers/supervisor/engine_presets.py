"""Presets: engine options chosen by free GPU memory where the model profile sets none.  Pure: NVML is asked in ``gpus.py``.

A profile's own option always wins.  Engines named by import string choose for themselves, and how much an endpoint bears
(``openai``) is no matter of our GPUs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigError
from common.spec.models import ModelProfile
from workers.supervisor.gpus import Gpu

_GIB = 2**30

# From so many GiB free for one worker, largest first.  Cards of 24, 16 and 8 GB show at least 21, 14 and 7 when idle.
_HF_BATCH = ((21, 16), (14, 8), (7, 4), (0, 1))
# The same of all the GPUs of a worker together: the cache of a group lies on each of them in part.
_VLLM_SEQUENCES = ((40, 256), (20, 128), (10, 64), (0, 32))
# vLLM takes its share of the whole GPU and refuses to start when that is not free.  By then CUDA's own memory is taken.
_VLLM_MOST = 0.92
_VLLM_LEAST = 0.05
_VLLM_RESERVE = 2 * _GIB

_ONE_GPU_ENGINES = ("echo", "hf", "openai")
_GROUP_OPTIONS = ("tensor_parallel_size", "pipeline_parallel_size")  # vLLM takes the product of them


@dataclass(frozen=True, slots=True)
class Choice:
    """One engine option, and why it has this value, for a person."""

    value: int | float
    why: str


@dataclass(frozen=True, slots=True)
class Preset:
    """What was chosen for one worker's engine.  ``memory`` is what it was chosen by, for a person."""

    memory: str
    choices: Mapping[str, Choice]

    @property
    def options(self) -> dict[str, Any]:
        return {name: choice.value for name, choice in self.choices.items()}

    def __str__(self) -> str:
        chosen = ", ".join(f"{name}={choice.value} ({choice.why})" for name, choice in self.choices.items())
        return f"{self.memory}: {chosen or 'nothing chosen'}"


def choose_preset(profile: ModelProfile, gpus: Sequence[Gpu], *, replicas: int = 1) -> Preset:
    """Return the options for each of ``replicas`` workers that share ``gpus`` (none: a CPU slot).

    Raises ``ConfigError`` when the profile's engine cannot run on as many GPUs.
    """
    _check_group(profile, gpus)
    choose = _CHOOSERS.get(profile.engine)
    choices = choose(gpus, replicas) if choose else {}
    if "pipeline_parallel_size" in profile.engine_options:
        choices.pop("tensor_parallel_size", None)  # the profile says how the group is divided
    kept = {name: choice for name, choice in choices.items() if name not in profile.engine_options}
    return Preset(describe_memory(gpus, replicas), kept)


def find_group_size(profile: ModelProfile) -> int | None:
    """Return how many GPUs the profile wants for each worker, and ``None`` if it leaves that open.

    Raises ``ConfigError`` for a number that is none.
    """
    asked = _list_group_options(profile)
    for name, size in asked.items():
        if not isinstance(size, int) or size < 1:
            raise ConfigError(
                f"profile {profile.name}: engine_options.{name}: found {size!r}; expected a number of GPUs, 1 or more"
            )
    return math.prod(asked.values()) if asked else None


def describe_memory(gpus: Sequence[Gpu], replicas: int = 1) -> str:
    """Return for example ``79.1 GiB free of 80.0``; of several GPUs the one with the least free memory speaks."""
    if not gpus:
        return "no GPU"
    gpu = min(gpus, key=lambda one: one.free_bytes or 0)
    if gpu.free_bytes is None or gpu.total_bytes is None:
        return "NVML does not tell the memory"
    each = f" on each of {len(gpus)} GPUs" if len(gpus) > 1 else ""
    among = f", divided among {replicas}" if replicas > 1 else ""
    return f"{gpu.free_bytes / _GIB:.1f} GiB free of {gpu.total_bytes / _GIB:.1f}{each}{among}"


def _check_group(profile: ModelProfile, gpus: Sequence[Gpu]) -> None:
    group = "+".join(str(gpu.index) for gpu in gpus)
    if len(gpus) > 1 and profile.engine in _ONE_GPU_ENGINES:
        raise ConfigError(
            f"--gpus {group}: the engine {profile.engine} of profile {profile.name} runs on one GPU; give them one by one "
            f"(--gpus {group.replace('+', ',')}), or use engine: vllm, which divides a model among GPUs"
        )
    asked = find_group_size(profile)
    if gpus and asked is not None and asked != len(gpus):
        options = " and ".join(f"{name}: {size}" for name, size in _list_group_options(profile).items())
        raise ConfigError(
            f"--gpus {group}: profile {profile.name} sets engine_options.{options}, but this slot has {len(gpus)}; use "
            f"--gpus all, which makes slots of {asked}, join as many GPUs with + (as in --gpus 0+1), or change the profile"
        )


def _list_group_options(profile: ModelProfile) -> dict[str, Any]:
    options = profile.engine_options if profile.engine == "vllm" else {}
    return {name: options[name] for name in _GROUP_OPTIONS if name in options}


def _choose_for_hf(gpus: Sequence[Gpu], replicas: int) -> dict[str, Choice]:
    room = _find_room(gpus, replicas)
    return {} if room is None else {"max_batch_size": _look_up(_HF_BATCH, room)}


def _choose_for_vllm(gpus: Sequence[Gpu], replicas: int) -> dict[str, Choice]:
    choices = {"tensor_parallel_size": Choice(len(gpus), "a group")} if len(gpus) > 1 else {}
    if (room := _find_room(gpus, replicas)) is None:
        return choices
    share = min(_find_share(gpu, replicas) for gpu in gpus)
    if share >= _VLLM_LEAST:  # otherwise vLLM's own words say best what is missing
        choices["gpu_memory_utilization"] = Choice(share, "free memory")
    return {**choices, "max_num_seqs": _look_up(_VLLM_SEQUENCES, room * len(gpus))}


_CHOOSERS: dict[str, Callable[[Sequence[Gpu], int], dict[str, Choice]]] = {
    "hf": _choose_for_hf,
    "vllm": _choose_for_vllm,
}


def _find_room(gpus: Sequence[Gpu], replicas: int) -> float | None:
    """Return the bytes that one worker has on each of its GPUs, if that is known."""
    free = [gpu.free_bytes for gpu in gpus if gpu.free_bytes is not None]
    return min(free) / replicas if free and len(free) == len(gpus) else None


def _find_share(gpu: Gpu, replicas: int) -> float:
    """Return which part of a GPU's whole memory one worker may take, rounded down to hundredths."""
    free, total = gpu.free_bytes or 0, gpu.total_bytes or 1
    share = min(free / replicas - _VLLM_RESERVE, _VLLM_MOST * total / replicas) / total
    return math.floor(share * 100 + 1e-9) / 100


def _look_up(table: Sequence[tuple[int, int]], room_bytes: float) -> Choice:
    for gib, value in table:
        if room_bytes >= gib * _GIB:
            return Choice(value, f"from {gib} GiB up" if gib else f"below {table[-2][0]} GiB")
    raise AssertionError("a table ends with 0 GiB")
