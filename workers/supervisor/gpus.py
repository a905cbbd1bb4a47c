"""List the GPUs of this machine through NVML, and parse the ``--gpus`` option.

A GPU's index is its CUDA index under ``CUDA_DEVICE_ORDER=PCI_BUS_ID``. The launcher sets that variable, because NVML also orders
GPUs by PCI bus.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pynvml  # type: ignore[import-untyped]  # NVIDIA does not ship types

from common.errors import ConfigError, EngineError

_VARIABLE = "CUDA_VISIBLE_DEVICES"
_END_OF_VISIBLE = ("", "-1", "NoDevFiles")  # CUDA ignores all entries after one of these; batch systems write them for "no GPU"
_RANGE = re.compile(r"([0-9]{1,4})-([0-9]{1,4})")
_GROUP = re.compile(r"[0-9]{1,4}(?:\+[0-9]{1,4})*")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Its memory sizes are ``None`` where NVML does not report them, because the CPU shares the memory."""

    index: int
    uuid: str
    name: str
    total_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuUser:
    """A process that holds GPU memory. ``used_bytes`` is ``None`` where NVML does not let this user read it."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class Driver:
    """The version of the NVIDIA driver, and the newest CUDA version that it supports, for example ``13.0``."""

    version: str
    cuda: str


def list_gpus() -> list[Gpu]:
    """Return the GPUs that are visible to this process.

    Raises ``ConfigError`` if a driver is not installed, and ``EngineError`` if the driver fails. A failure is a fault of this
    machine, and other machines may work.
    """
    with _nvml():
        return [_read_gpu(index, handle) for index, handle in enumerate(_list_handles())]


def list_users(gpu: Gpu) -> list[GpuUser]:
    """Return the compute processes on a GPU, or an empty list if NVML does not report them.

    Raises the errors of ``list_gpus``.
    """
    with _nvml(), suppress(pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission, pynvml.NVMLError_FunctionNotFound):
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid))
        return [GpuUser(process.pid, process.usedGpuMemory) for process in processes]
    return []


def read_driver() -> Driver:
    """Return the versions of the driver and of CUDA. Raises the errors of ``list_gpus``."""
    with _nvml():
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return Driver(pynvml.nvmlSystemGetDriverVersion(), f"{cuda // 1000}.{cuda % 1000 // 10}")


def list_usable_gpus() -> list[Gpu]:
    """Return the GPUs that the workers may use. If ``CUDA_VISIBLE_DEVICES`` is set, return only the GPUs that it names.

    Raises ``ConfigError`` if no GPU remains, and the errors of ``list_gpus``.
    """
    gpus = list_gpus()
    if not gpus:
        raise ConfigError("the NVIDIA driver shows no GPU; use --gpus none")
    visible = os.environ.get(_VARIABLE)
    usable = gpus if visible is None else pick_visible(gpus, visible)
    if not usable:
        raise ConfigError(f"{_VARIABLE}={visible!r} leaves no usable GPU; unset it, or use --gpus none")
    return usable


def pick_visible(gpus: Sequence[Gpu], visible: str) -> list[Gpu]:
    """Return the GPUs that a value of ``CUDA_VISIBLE_DEVICES`` names, by index, by UUID or by UUID prefix.

    Raises ``ConfigError`` if an entry does not name exactly one GPU.
    """
    picked: list[Gpu] = []
    for entry in map(str.strip, visible.split(",")):
        if entry in _END_OF_VISIBLE:
            break
        named = [gpu for gpu in gpus if _is_named(gpu, entry)]
        if len(named) != 1:
            slices = "; slices of a GPU (MIG) are not supported" if entry.startswith("MIG-") else ""
            raise ConfigError(
                f"{_VARIABLE}={visible!r}: {entry!r} does not name exactly one GPU{slices}; the GPUs are: {describe_gpus(gpus)}"
            )
        picked += named
    return picked


def parse_gpus(asked: str, gpus: Sequence[Gpu], *, group_size: int = 1) -> list[tuple[Gpu, ...]]:
    """Return the GPUs of each slot that ``--gpus`` requests, in order of their indexes. ``gpus`` are the usable GPUs.

    ``all`` is one slot for each ``group_size`` of ``gpus``; ``none`` is one slot without a GPU; ``0,1+2`` is one slot with
    GPU 0 and one with GPUs 1 and 2; ``0-3`` is four slots.

    Raises ``ConfigError`` if the text cannot be parsed, if it names a GPU twice or a GPU that is not usable, or if the number of
    GPUs is not a multiple of ``group_size``.
    """
    if asked == "none":
        return [()]
    if asked == "all":
        return _divide(sorted(gpus, key=lambda gpu: gpu.index), group_size)
    groups = [group for item in asked.split(",") for group in _read_item(item.strip(), asked)]
    numbers = [number for group in groups for number in group]
    known = {gpu.index: gpu for gpu in gpus}
    if doubled := sorted({number for number in numbers if numbers.count(number) > 1}):
        raise ConfigError(f"--gpus {asked!r}: GPU {doubled[0]} is named twice; for several workers on a GPU use --replicas")
    if missing := sorted(set(numbers) - set(known)):
        limit = f" that {_VARIABLE}={os.environ[_VARIABLE]} leaves" if _VARIABLE in os.environ else ""
        raise ConfigError(
            f"--gpus {asked!r}: GPU {missing[0]} is not one of the GPUs{limit or ' of this machine'}: {describe_gpus(gpus)}"
        )
    return [tuple(known[number] for number in sorted(group)) for group in sorted(groups, key=min)]


def describe_gpus(gpus: Sequence[Gpu]) -> str:
    return ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus) or "none"


def _divide(gpus: Sequence[Gpu], size: int) -> list[tuple[Gpu, ...]]:
    """Return groups of GPUs with adjacent indexes: these tend to have the fastest interconnect."""
    if len(gpus) % size:
        raise ConfigError(
            f"--gpus all: {len(gpus)} GPU{'' if len(gpus) == 1 else 's'} cannot be divided into groups of {size}, which "
            f"the profile's engine_options require; use a multiple of {size} GPUs (request as many from a batch system), or name "
            "the groups, as in --gpus 0+1"
        )
    return [tuple(gpus[begin : begin + size]) for begin in range(0, len(gpus), size)]


def _read_item(item: str, asked: str) -> list[list[int]]:
    if bounds := _RANGE.fullmatch(item):
        first, last = map(int, bounds.groups())
        if first > last:
            raise ConfigError(f"--gpus {asked!r}: the range {item} is descending; write {last}-{first}")
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
            "no NVIDIA driver found here (libnvidia-ml.so.1): use --gpus none, or install the driver; in a container, "
            "pass the GPUs through (docker run --gpus all) with NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        ) from error
    except pynvml.NVMLError as error:
        raise EngineError(f"the NVIDIA driver fails: {error}; check it with nvidia-smi, or use --gpus none") from error


def _list_handles() -> list[Any]:
    """Return the NVML handles of the GPUs that this process may use.

    NVML also counts the GPUs that a batch system's control groups forbid. CUDA does not count them, so they are skipped here.
    """
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
