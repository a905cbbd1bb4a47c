"""A fake of NVIDIA's ``pynvml`` for a machine without a driver: it reports the GPUs of the variable ``SHOWN_GPUS``.

See ``tests/support/hardware/fake_gpus.py``. Unset means no driver; ``broken`` means a driver that fails; otherwise it is a
JSON list of objects ``{uuid, name, total, free, pids}``, or ``null`` for a GPU that this process may not use.
"""

import json
import os
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """The base class of NVML's errors."""


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801  as NVIDIA spells it
    """The driver is not installed."""


class NVMLError_DriverNotLoaded(NVMLError):  # noqa: N801  the same
    """The driver is installed and does not run."""


class NVMLError_NoPermission(NVMLError):  # noqa: N801  the same
    """The process may not use the GPU."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801  the same
    """The GPU does not support the query."""


class NVMLError_FunctionNotFound(NVMLError):  # noqa: N801  the same
    """The driver is too old."""


_open = 0


def nvmlInit() -> None:  # noqa: N802  as NVIDIA spells it, here and below
    global _open
    shown = os.environ.get("SHOWN_GPUS")
    if shown is None:
        raise NVMLError_LibraryNotFound("NVML Shared Library Not Found")
    if shown == "broken":
        raise NVMLError_DriverNotLoaded("Driver Not Loaded")
    _open += 1


def nvmlShutdown() -> None:  # noqa: N802
    global _open
    _open -= 1


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return len(_read())


def nvmlDeviceGetHandleByIndex(index: int) -> Any:  # noqa: N802
    if (gpu := _read()[index]) is None:
        raise NVMLError_NoPermission("Insufficient Permissions")
    return gpu


def nvmlDeviceGetHandleByUUID(uuid: str) -> Any:  # noqa: N802
    return next(gpu for gpu in _read() if gpu and gpu["uuid"] == uuid)


def nvmlDeviceGetName(handle: Any) -> str:  # noqa: N802
    return str(handle["name"])


def nvmlDeviceGetUUID(handle: Any) -> str:  # noqa: N802
    return str(handle["uuid"])


def nvmlDeviceGetMemoryInfo(handle: Any) -> SimpleNamespace:  # noqa: N802
    if handle["total"] is None:
        raise NVMLError_NotSupported("Not Supported")
    return SimpleNamespace(total=handle["total"], free=handle["free"])


def nvmlDeviceGetComputeRunningProcesses_v3(handle: Any) -> list[SimpleNamespace]:  # noqa: N802
    if handle["pids"] is None:
        raise NVMLError_FunctionNotFound("Function Not Found")
    return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in handle["pids"]]


def nvmlSystemGetDriverVersion() -> str:  # noqa: N802
    return "580.82.07"


def nvmlSystemGetCudaDriverVersion_v2() -> int:  # noqa: N802
    return 13020


def _read() -> list[Any]:
    assert _open, "nvmlInit was not called, or nvmlShutdown was"
    gpus: list[Any] = json.loads(os.environ["SHOWN_GPUS"])
    return gpus
