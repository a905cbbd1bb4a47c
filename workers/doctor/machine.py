"""The machine, as ``workers check`` sees it: GPUs and who is on them, versions, room on the disks."""

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

# A GPU of which less is free has somebody else on it; an idle one shows at least 95 %.
_FREE_WHEN_IDLE = 0.9
_LITTLE_BYTES, _TOO_LITTLE_BYTES = 10 * GIB, GIB
_PACKAGES = ("vlm-fleet", "celery", "redis", "torch", "transformers", "vllm", "openai")


def check_gpus(asked: Sequence[tuple[str | None, str | None]], replicas: int) -> list[Finding]:
    """Return the driver, each GPU that is to be used, and what was chosen for each worker of the models."""
    if all(gpus == "none" for _, gpus in asked):
        return [Finding("gpus", "ok", "none asked for"), *_check_slots(asked, replicas)]
    try:
        driver, there, usable = read_driver(), list_gpus(), list_usable_gpus()
    except FleetError as error:
        is_wanted = any(gpus not in (None, "none") for _, gpus in asked)
        return [Finding("gpus", "problem" if is_wanted else "warning", str(error))]
    found = f"driver {driver.version} for CUDA up to {driver.cuda}; {len(usable)} of {len(there)} GPUs to be used"
    try:
        wanted = {gpu.index: gpu for _, gpus in asked for group in parse_gpus(gpus or "all", usable) for gpu in group}
    except ConfigError as error:
        return [Finding("driver", "ok", found), report_fault("gpus", error)]
    return [Finding("driver", "ok", found), *map(_check_gpu, wanted.values()), *_check_slots(asked, replicas)]


def check_versions(asked: Sequence[tuple[str | None, str | None]]) -> list[Finding]:
    """Return the versions of what matters, without importing any of it, and whether they suit the GPUs that are asked for."""
    versions = {name: _find_version(name) for name in _PACKAGES}
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    absent = ", ".join(name for name, version in versions.items() if not version)
    missing = f"; not installed: {absent}" if absent else ""
    found = [Finding("versions", "ok", f"python {platform.python_version()}, {known}{missing}")]
    wants_gpus = any(gpus != "none" for _, gpus in asked)
    if wants_gpus and (versions["torch"] or "").endswith("+cpu") and _has_gpu():
        advice = "install a CUDA build: pip install 'vlm-fleet[gpu]' in a fresh environment"
        found.append(Finding("torch", "problem", "it is built for CPUs alone and will not see the GPUs", advice))
    return found


def check_disk(settings: Settings) -> list[Finding]:
    """Return the free space where the store, temporary files and downloaded weights lie."""
    places = {"store": find_store_folder(settings), "temporary files": Path(tempfile.gettempdir()), "weights": find_hub_cache()}
    return [_check_place(what, folder) for what, folder in places.items() if folder is not None]


def judge_space(what: str, folder: Path, free_bytes: int) -> Finding:
    found = f"{free_bytes / GIB:.1f} GiB free at {folder}"
    if free_bytes >= _LITTLE_BYTES:
        return Finding(f"disk: {what}", "ok", found)
    return Finding(f"disk: {what}", "problem" if free_bytes < _TOO_LITTLE_BYTES else "warning", found, "make room")


def judge_gpu(gpu: Gpu, pids: Sequence[int]) -> Finding:
    """Return what a GPU has free, and who else is on it."""
    found = f"{gpu.name}, {describe_memory([gpu])}"
    users = f", used by process{'' if len(pids) == 1 else 'es'} {', '.join(map(str, pids))}" if pids else ""
    is_taken = None not in (gpu.free_bytes, gpu.total_bytes) and (gpu.free_bytes or 0) < _FREE_WHEN_IDLE * (gpu.total_bytes or 0)
    if not is_taken:
        return Finding(f"gpu{gpu.index}", "ok", found + users)
    return Finding(
        f"gpu{gpu.index}", "warning", found + users, "end what else runs there, or give it fewer workers: see nvidia-smi"
    )


def _check_gpu(gpu: Gpu) -> Finding:
    try:
        return judge_gpu(gpu, [user.pid for user in list_users(gpu)])
    except FleetError as error:
        return report_fault(f"gpu{gpu.index}", error)


def _check_slots(asked: Sequence[tuple[str | None, str | None]], replicas: int) -> list[Finding]:
    """Return what each worker of the models would be started with."""
    pairs = [(model, gpus or "all") for model, gpus in asked if model is not None]
    if not pairs:
        return []
    try:
        return [_describe_assignment(one) for one in assign_slots(pairs, replicas=replicas)]
    except FleetError as error:
        return [report_fault("slots", error)]


def _describe_assignment(one: Assignment) -> Finding:
    slot = one.slot.name if one.slot.devices else "cpu"
    return Finding(f"slot {slot}", "ok", f"{one.model}: {one.preset}")


def _check_place(what: str, folder: Path) -> Finding:
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        return judge_space(what, folder, shutil.disk_usage(there).free)
    except OSError as error:  # somebody else's, too: one above it may not be entered
        return Finding(f"disk: {what}", "problem", f"{folder}: {error.strerror}", "check that it is mounted, and its permissions")


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
