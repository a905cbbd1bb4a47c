"""The checks of the machine: GPUs and the processes on them, package versions, and free disk space."""

import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.errors import ConfigError, FleetError
from common.settings import Settings
from workers.doctor.finding import GIB, Finding, report_fault
from workers.doctor.services import find_store_folder
from workers.doctor.weights import find_hub_cache
from workers.supervisor.engine_presets import describe_memory
from workers.supervisor.gpus import Gpu, list_gpus, list_usable_gpus, list_users, parse_gpus, read_driver
from workers.supervisor.placement import Assignment, assign_slots

# If a smaller fraction of a GPU is free, another process uses it. An idle GPU reports at least 95 % free.
_FREE_WHEN_IDLE = 0.9
_WARNING_BYTES, _PROBLEM_BYTES = 10 * GIB, GIB  # thresholds of free disk space
_PACKAGES = ("vlm-fleet", "celery", "redis", "torch", "transformers", "vllm")


def check_gpus(pairs: Sequence[tuple[str | None, str | None]], replicas: int) -> list[Finding]:
    """Check the driver, each requested GPU, and the engine options that each worker of the models would get.

    ``pairs`` are model profiles with their ``--gpus``, as for ``check_node``. A missing driver or GPU is a problem if the user
    requested GPUs, and a warning otherwise.
    """
    if all(gpus == "none" for _, gpus in pairs):
        return [Finding("gpus", "ok", "none requested"), *_check_slots(pairs, replicas)]
    try:
        driver, present, usable = read_driver(), list_gpus(), list_usable_gpus()
    except FleetError as error:
        is_requested = any(gpus not in (None, "none") for _, gpus in pairs)
        return [Finding("gpus", "problem" if is_requested else "warning", str(error))]
    found = f"driver {driver.version} for CUDA up to {driver.cuda}; {len(usable)} of {len(present)} GPUs usable"
    try:
        requested = {gpu.index: gpu for _, gpus in pairs for group in parse_gpus(gpus or "all", usable) for gpu in group}
    except ConfigError as error:
        return [Finding("driver", "ok", found), report_fault("gpus", error)]
    return [Finding("driver", "ok", found), *map(_check_gpu, requested.values()), *_check_slots(pairs, replicas)]


def check_versions(pairs: Sequence[tuple[str | None, str | None]]) -> list[Finding]:
    """Check the versions of Python and of the packages in ``_PACKAGES``, without importing them.

    A build of torch for CPUs only is a problem if ``pairs`` request GPUs and the machine has one.
    """
    versions = {name: _find_version(name) for name in _PACKAGES}
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    absent = ", ".join(name for name, version in versions.items() if not version)
    missing = f"; not installed: {absent}" if absent else ""
    found = [Finding("versions", "ok", f"python {platform.python_version()}, {known}{missing}")]
    requests_gpus = any(gpus != "none" for _, gpus in pairs)
    if requests_gpus and (versions["torch"] or "").endswith("+cpu") and _has_gpu():
        advice = "install a CUDA build: pip install 'vlm-fleet[gpu]' in a fresh environment"
        found.append(Finding("torch", "problem", "this build supports only CPUs and cannot use the GPUs", advice))
    return found


def check_disk(settings: Settings) -> list[Finding]:
    """Check the free disk space of the store, of temporary files and of downloaded weights."""
    folders = {"store": find_store_folder(settings), "temporary files": Path(tempfile.gettempdir()), "weights": find_hub_cache()}
    return [_check_free_space(what, folder) for what, folder in folders.items() if folder is not None]


def judge_space(what: str, folder: Path, free_bytes: int) -> Finding:
    """Judge the free space at a folder: below 10 GiB is a warning, below 1 GiB a problem."""
    found = f"{free_bytes / GIB:.1f} GiB free at {folder}"
    if free_bytes >= _WARNING_BYTES:
        return Finding(f"disk: {what}", "ok", found)
    return Finding(f"disk: {what}", "problem" if free_bytes < _PROBLEM_BYTES else "warning", found, "free some disk space")


def judge_gpu(gpu: Gpu, pids: Sequence[int]) -> Finding:
    """Judge the free memory of a GPU. ``pids`` are the processes that use it now."""
    found = f"{gpu.name}, {describe_memory([gpu])}"
    users = f", used by process{'' if len(pids) == 1 else 'es'} {', '.join(map(str, pids))}" if pids else ""
    is_taken = None not in (gpu.free_bytes, gpu.total_bytes) and (gpu.free_bytes or 0) < _FREE_WHEN_IDLE * (gpu.total_bytes or 0)
    if not is_taken:
        return Finding(f"gpu{gpu.index}", "ok", found + users)
    return Finding(
        f"gpu{gpu.index}", "warning", found + users, "stop the other processes on it (see nvidia-smi), or run fewer workers"
    )


def _check_gpu(gpu: Gpu) -> Finding:
    try:
        return judge_gpu(gpu, [user.pid for user in list_users(gpu)])
    except FleetError as error:
        return report_fault(f"gpu{gpu.index}", error)


def _check_slots(pairs: Sequence[tuple[str | None, str | None]], replicas: int) -> list[Finding]:
    """Return the engine options that the launcher would give to each worker of the models."""
    models = [(model, gpus or "all") for model, gpus in pairs if model is not None]
    if not models:
        return []
    try:
        return [_describe_assignment(one) for one in assign_slots(models, replicas=replicas)]
    except FleetError as error:
        return [report_fault("slots", error)]


def _describe_assignment(one: Assignment) -> Finding:
    slot = one.slot.name if one.slot.devices else "cpu"
    return Finding(f"slot {slot}", "ok", f"{one.model}: {one.preset}")


def _check_free_space(what: str, folder: Path) -> Finding:
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        return judge_space(what, folder, shutil.disk_usage(existing).free)
    except OSError as error:  # for example, this process may not enter a parent folder
        return Finding(f"disk: {what}", "problem", f"{folder}: {error.strerror}", "check its mount and permissions")


def _find_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_gpu() -> bool:
    try:
        return bool(list_gpus())
    except FleetError:
        return False
