"""The GPUs of this machine as NVML shows them, and what ``--gpus`` asks for.

A GPU's number is CUDA's under ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, which the launcher sets: NVML counts by PCI bus as well.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pynvml  # type: ignore[import-untyped]  # NVIDIA ships no types

from common.errors import ConfigError, EngineError

_VARIABLE = "CUDA_VISIBLE_DEVICES"
_END_OF_VISIBLE = ("", "-1", "NoDevFiles")  # CUDA looks no further; batch systems write these for "no GPU"
_RANGE = re.compile(r"([0-9]{1,4})-([0-9]{1,4})")
_GROUP = re.compile(r"[0-9]{1,4}(?:\+[0-9]{1,4})*")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.  Its memory is in bytes, and ``None`` where NVML cannot tell (it is shared with the CPU)."""

    index: int
    uuid: str
    name: str
    total_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuUser:
    """A process that holds memory of a GPU; NVML does not tell how much to everybody."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class Driver:
    """Versions: of the driver, and of the newest CUDA that it runs, for example ``13.0``."""

    version: str
    cuda: str


def list_gpus() -> list[Gpu]:
    """Return the GPUs that the driver lets us see.

    Raises ``ConfigError`` when there is no driver, and ``EngineError`` when it fails: that is the machine's fault, and another
    one's may be sound.
    """
    with _nvml():
        return [_read_gpu(index, handle) for index, handle in enumerate(_list_handles())]


def list_users(gpu: Gpu) -> list[GpuUser]:
    """Return the processes that compute on a GPU, as far as NVML tells.  Raises as ``list_gpus`` does."""
    with _nvml(), suppress(pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission, pynvml.NVMLError_FunctionNotFound):
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid))
        return [GpuUser(process.pid, process.usedGpuMemory) for process in processes]
    return []


def read_driver() -> Driver:
    """Return the driver's versions.  Raises as ``list_gpus`` does."""
    with _nvml():
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return Driver(pynvml.nvmlSystemGetDriverVersion(), f"{cuda // 1000}.{cuda % 1000 // 10}")


def list_usable_gpus() -> list[Gpu]:
    """Return the GPUs that workers started here may use: a ``CUDA_VISIBLE_DEVICES`` that is set already is a limit.

    Raises ``ConfigError`` when there is none, and as ``list_gpus`` does.
    """
    gpus = list_gpus()
    if not gpus:
        raise ConfigError("the NVIDIA driver shows no GPU; use --gpus none")
    visible = os.environ.get(_VARIABLE)
    usable = gpus if visible is None else pick_visible(gpus, visible)
    if not usable:
        raise ConfigError(f"{_VARIABLE}={visible!r} leaves no GPU to be used; unset it, or use --gpus none")
    return usable


def pick_visible(gpus: Sequence[Gpu], visible: str) -> list[Gpu]:
    """Return the GPUs that a ``CUDA_VISIBLE_DEVICES`` names, by number or by UUID or its beginning.  Raises ``ConfigError``."""
    picked: list[Gpu] = []
    for entry in map(str.strip, visible.split(",")):
        if entry in _END_OF_VISIBLE:
            break
        named = [gpu for gpu in gpus if _is_named(gpu, entry)]
        if len(named) != 1:
            slices = "; slices of a GPU (MIG) are not supported" if entry.startswith("MIG-") else ""
            raise ConfigError(
                f"{_VARIABLE}={visible!r}: {entry!r} names no GPU of this machine{slices}; there are: {describe_gpus(gpus)}"
            )
        picked += named
    return picked


def parse_gpus(asked: str, gpus: Sequence[Gpu], *, group_size: int = 1) -> list[tuple[Gpu, ...]]:
    """Return the GPUs of each slot that ``--gpus`` asks for, in order of their numbers.

    ``all`` is a slot for each ``group_size`` of ``gpus``, which are those that may be used; ``none`` is one slot without a GPU;
    ``0,1+2`` is a slot for GPU 0 and one for 1 and 2 together; ``0-3`` is four slots.  Raises ``ConfigError``, also when there
    are GPUs left over that make no group.
    """
    if asked == "none":
        return [()]
    if asked == "all":
        return _divide(sorted(gpus, key=lambda gpu: gpu.index), group_size)
    groups = [group for item in asked.split(",") for group in _read_item(item.strip(), asked)]
    numbers = [number for group in groups for number in group]
    known = {gpu.index: gpu for gpu in gpus}
    if doubled := sorted({number for number in numbers if numbers.count(number) > 1}):
        raise ConfigError(f"--gpus {asked!r}: GPU {doubled[0]} stands there twice; for several workers on a GPU use --replicas")
    if missing := sorted(set(numbers) - set(known)):
        limit = f" that {_VARIABLE}={os.environ[_VARIABLE]} leaves" if _VARIABLE in os.environ else ""
        raise ConfigError(
            f"--gpus {asked!r}: there is no GPU {missing[0]} among those{limit or ' of this machine'}: {describe_gpus(gpus)}"
        )
    return [tuple(known[number] for number in sorted(group)) for group in sorted(groups, key=min)]


def describe_gpus(gpus: Sequence[Gpu]) -> str:
    return ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus) or "none"


def _divide(gpus: Sequence[Gpu], size: int) -> list[tuple[Gpu, ...]]:
    """Return groups of neighbours: GPUs with numbers next to each other tend to be joined the fastest."""
    if len(gpus) % size:
        raise ConfigError(
            f"--gpus all: {len(gpus)} GPU{'' if len(gpus) == 1 else 's'} cannot be divided into groups of {size}, which "
            f"engine_options of the profile ask for; make it a multiple of {size} (in a batch system, ask for as many), or name "
            "the groups, as in --gpus 0+1"
        )
    return [tuple(gpus[begin : begin + size]) for begin in range(0, len(gpus), size)]


def _read_item(item: str, asked: str) -> list[list[int]]:
    if bounds := _RANGE.fullmatch(item):
        first, last = map(int, bounds.groups())
        if first > last:
            raise ConfigError(f"--gpus {asked!r}: the range {item} runs backwards; write {last}-{first}")
        return [[number] for number in range(first, last + 1)]
    if _GROUP.fullmatch(item):
        return [[int(number) for number in item.split("+")]]
    raise ConfigError(
        f"--gpus {asked!r}: expected none, all, or GPU numbers such as 0, 0-3 or 0,1+2,3 (1+2 is one worker on two GPUs)"
    )


def _is_named(gpu: Gpu, entry: str) -> bool:
    if entry.isdecimal():
        return gpu.index == int(entry)
    return entry.startswith("GPU-") and gpu.uuid.startswith(entry)


@contextmanager
def _nvml() -> Iterator[None]:
    try:
        pynvml.nvmlInit()
        try:
            yield
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError_LibraryNotFound as error:
        raise ConfigError(
            "no NVIDIA driver found here (libnvidia-ml.so.1): use --gpus none, or install the driver; in a container give it the "
            "GPUs (docker run --gpus all) with NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        ) from error
    except pynvml.NVMLError as error:
        raise EngineError(f"the NVIDIA driver fails: {error}; does nvidia-smi work? Otherwise use --gpus none") from error


def _list_handles() -> list[Any]:
    """Return the GPUs that we may use.  NVML counts the others too (control groups of a batch system); CUDA does not."""
    handles = []
    for number in range(pynvml.nvmlDeviceGetCount()):
        with suppress(pynvml.NVMLError_NoPermission):
            handles.append(pynvml.nvmlDeviceGetHandleByIndex(number))
    return handles


def _read_gpu(index: int, handle: Any) -> Gpu:
    total = free = None
    with suppress(pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = memory.total, memory.free
    return Gpu(index, pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle), total, free)
