"""Fake GPUs, in this process or in a process with the environment of ``with_gpus``."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.support.hardware.nvml import pynvml as fake_pynvml
from workers.supervisor import gpus
from workers.supervisor.gpus import Gpu

GIB = 2**30
_FOLDER = Path(__file__).parent / "nvml"


@dataclass(frozen=True)
class FakeGpu:
    """One GPU as NVML reports it. ``pids`` are the processes on the GPU, or ``None`` if the driver does not report them."""

    uuid: str = "GPU-0"
    name: str = "NVIDIA H100 80GB HBM3"
    total: int | None = 80 * GIB
    free: int | None = 79 * GIB
    pids: tuple[int, ...] | None = ()


def make_gpu(index: int, *, free_gib: float | None = 79.1, total_gib: float | None = 80.0) -> Gpu:
    """Return a GPU's record with ``free_gib`` free; ``None`` means that NVML does not report the value."""
    total, free = (None if gib is None else int(gib * GIB) for gib in (total_gib, free_gib))
    return Gpu(index, f"GPU-{index}{index}{index}{index}-abcd", "NVIDIA H100 80GB HBM3", total, free)


def fake_nvml(monkeypatch: pytest.MonkeyPatch, shown: Sequence[FakeGpu | None] | str | None) -> None:
    """Make this process see only these GPUs: ``None`` for no driver, ``broken`` for a driver that fails."""
    monkeypatch.setattr(gpus, "pynvml", fake_pynvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SHOWN_GPUS", raising=False)
    if shown is not None:
        monkeypatch.setenv("SHOWN_GPUS", shown if isinstance(shown, str) else _to_text(shown))


def with_gpus(environment: Mapping[str, str], count: int) -> dict[str, str]:
    """Return an environment in which processes see ``count`` GPUs; with 0 they find no driver."""
    path = os.pathsep.join([str(_FOLDER), environment["PYTHONPATH"]])
    hidden = ("SHOWN_GPUS", "CUDA_VISIBLE_DEVICES")
    shown = {"SHOWN_GPUS": _to_text([FakeGpu(uuid=f"GPU-{number}") for number in range(count)])} if count else {}
    return {**{name: value for name, value in environment.items() if name not in hidden}, **shown, "PYTHONPATH": path}


def _to_text(shown: Sequence[FakeGpu | None]) -> str:
    return json.dumps([gpu and asdict(gpu) for gpu in shown])
