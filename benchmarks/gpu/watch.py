"""Measure the utilization of GPUs by polling NVML twice a second, and the CPU time of processes and threads."""

import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from statistics import fmean
from types import TracebackType
from typing import Any, Self

import psutil
import pynvml  # type: ignore[import-untyped]  # the package does not contain types

_PERIOD_S = 0.5


@dataclass(frozen=True)
class GpuLook:
    """One measurement of one GPU.

    ``at_s`` is in Unix seconds. ``busy`` is the share of NVML's last sampling period in which a kernel ran, from 0 to 1.
    """

    at_s: float
    gpu: int
    busy: float
    watts: float


class GpuWatch:
    """Measures every GPU until the ``with`` block ends. Without a driver, it does not record anything."""

    def __init__(self) -> None:
        self._looks: list[GpuLook] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpu-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def describe(self, begun_s: float, ended_s: float) -> list[dict[str, float]]:
        """Return the mean ``busy`` and ``watts`` of each GPU between two times in Unix seconds."""
        looks = [look for look in list(self._looks) if begun_s <= look.at_s <= ended_s]
        means = []
        for gpu in sorted({look.gpu for look in looks}):
            own = [look for look in looks if look.gpu == gpu]
            means.append({"gpu": gpu, "busy": fmean(look.busy for look in own), "watts": fmean(look.watts for look in own)})
        return means

    def _watch(self) -> None:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
            while not self._ended.wait(_PERIOD_S):
                now = time.time()
                self._looks += [GpuLook(now, number, *_read_gpu(handle)) for number, handle in enumerate(handles)]


def _read_gpu(handle: Any) -> tuple[float, float]:
    watts = 0.0
    with suppress(pynvml.NVMLError_NotSupported):
        watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
    return pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100, watts


@dataclass(frozen=True)
class CpuUse:
    """The mean number of cores that a process used, and the share of one core that its busiest thread used."""

    process: str
    cores: float
    busiest_thread: float


class CpuWatch:
    """Measures the CPU time of a process and its descendants, from the creation of this object."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._begun_s = time.monotonic()
        self._before = self._read()

    def describe(self) -> list[dict[str, Any]]:
        """Return the ``CpuUse`` of each process since the creation of this object. Leave out processes below 0.01 cores."""
        wall_s = time.monotonic() - self._begun_s
        uses = []
        for pid, (name, threads) in self._read().items():
            _, before = self._before.get(pid, (name, {}))
            spent = [seconds - before.get(thread, 0.0) for thread, seconds in threads.items()]
            uses.append(CpuUse(f"{name} {pid}", sum(spent) / wall_s, max(spent, default=0.0) / wall_s))
        return [asdict(use) for use in sorted(uses, key=lambda use: -use.cores) if use.cores >= 0.01]

    def _read(self) -> dict[int, tuple[str, dict[int, float]]]:
        found: dict[int, tuple[str, dict[int, float]]] = {}
        for process in (self._root, *self._root.children(recursive=True)):
            with suppress(psutil.Error):  # the process has exited
                threads = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
                found[process.pid] = (process.name(), threads)
        return found
