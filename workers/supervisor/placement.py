"""Place the workers of a launcher: each ``--model`` on the slots of its ``--gpus``, with ``--replicas`` workers on each slot."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from common.errors import ConfigError
from common.spec.files import read_profile
from common.spec.models import ModelProfile
from workers.supervisor.engine_presets import Preset, choose_preset, find_group_size
from workers.supervisor.gpus import Gpu, list_usable_gpus, parse_gpus


@dataclass(frozen=True, slots=True)
class GpuSlot:
    """The place where one worker runs.

    ``name`` is unique on this machine, ``devices`` is the worker's ``CUDA_VISIBLE_DEVICES`` and ``gpu`` is the name of the
    hardware for status output. ``devices`` and ``gpu`` are empty without a GPU.
    """

    name: str
    devices: str
    gpu: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One worker to run: its slot, its model, the profile as the user named it, and the engine options chosen for it."""

    slot: GpuSlot
    profile: str
    model: str
    preset: Preset


def pair_models(models: Sequence[str], gpus: Sequence[str]) -> list[tuple[str, str]]:
    """Return each ``--model`` with the ``--gpus`` at the same position. A single model without ``--gpus`` gets ``all``.

    Raises ``ConfigError`` if the numbers of the two options differ.
    """
    if len(models) == 1 and not gpus:
        return [(models[0], "all")]
    if len(models) != len(gpus):
        raise ConfigError(
            f"found --model {len(models)} times and --gpus {len(gpus)} times; expected one --gpus for each --model, in the same "
            "order: --model A --gpus 0-1 --model B --gpus 2,3"
        )
    return list(zip(models, gpus, strict=True))


def assign_slots(asked: Sequence[tuple[str, str]], *, replicas: int = 1) -> list[Assignment]:
    """Return the workers to run for pairs of a profile and its ``--gpus``.

    ``all`` makes slots of as many GPUs as the profile requires.

    Raises ``ConfigError`` for a wrong profile or ``--gpus``, and if two models would share a GPU: each would count the same
    free memory as its own. Raises ``EngineError`` if the NVIDIA driver fails.
    """
    profiles = [(named, read_profile(named)) for named, _ in asked]
    usable = [] if all(gpus == "none" for _, gpus in asked) else list_usable_gpus()
    groups = [
        parse_gpus(gpus, usable, group_size=find_group_size(profile) or 1)
        for (_, gpus), (_, profile) in zip(asked, profiles, strict=True)
    ]
    _reject_shared_gpus([(profile.name, group) for (_, profile), found in zip(profiles, groups, strict=True) for group in found])
    names = _name_slots([group for found in groups for group in found], replicas)
    return [
        Assignment(GpuSlot(next(names), _list_devices(group), _describe(group)), named, profile.name, preset)
        for (named, profile), found in zip(profiles, groups, strict=True)
        for group in found
        for preset in _choose_for_replicas(profile, group, replicas)
    ]


def _choose_for_replicas(profile: ModelProfile, group: Sequence[Gpu], replicas: int) -> list[Preset]:
    return [choose_preset(profile, group, replicas=replicas if group else 1)] * replicas


def _name_slots(groups: Sequence[Sequence[Gpu]], replicas: int) -> Iterator[str]:
    """Yield a name for each worker: ``gpu0``, ``gpu1+2``, ``gpu0.1`` and ``gpu0.2`` for replicas.

    The name of a slot without a GPU contains the id of this process, because several launchers may run on one machine.
    """
    cpu_numbers = count(1)
    is_single = sum(not group for group in groups) * replicas == 1
    for group in groups:
        for replica in range(1, replicas + 1):
            if not group:
                yield f"cpu{os.getpid()}" + ("" if is_single else f".{next(cpu_numbers)}")
            else:
                yield "gpu" + _list_devices(group).replace(",", "+") + (f".{replica}" if replicas > 1 else "")


def _list_devices(group: Sequence[Gpu]) -> str:
    return ",".join(str(gpu.index) for gpu in group)


def _describe(group: Sequence[Gpu]) -> str:
    """Return the hardware of a slot, for example ``NVIDIA L4``, or ``2 × NVIDIA L4`` for a group."""
    counted = Counter(gpu.name for gpu in group)
    return ", ".join(name if number == 1 else f"{number} × {name}" for name, number in counted.items())


def _reject_shared_gpus(groups: Sequence[tuple[str, Sequence[Gpu]]]) -> None:
    owners: dict[int, str] = {}
    for model, group in groups:
        for gpu in group:
            if gpu.index in owners:
                raise ConfigError(
                    f"--gpus: GPU {gpu.index} is given to {owners[gpu.index]} and to {model}; both would count its free memory as "
                    "theirs. Give each model its own GPUs, or run one model after the other"
                )
            owners[gpu.index] = model
