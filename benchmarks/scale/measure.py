"""Measure cases one after another, and print a table. Part of ``benchmarks.scale``."""

import os
import platform
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.scale.cases import CASES
from benchmarks.scale.enqueue import Measured, measure_case

PEAK_LIMIT_BYTES = 500_000_000
_COLUMNS = ("dataset", "rows", "MB", "rows/s", "MB/s", "wall s", "CPU s", "peak MB", "plan MB")


def measure_cases(names: list[str], scale: float, folder: Path) -> bool:
    """Print a row of a table for each case. Return whether every peak is within the limit."""
    print(
        f"scale {scale:g}; {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the start"
    )
    print(", ".join(f"{name} {version(name)}" for name in ("pyarrow", "pydantic", "msgspec", "obstore", "celery", "redis")))
    print("\n| " + " | ".join(_COLUMNS) + " |\n| --- |" + " --- |" * (len(_COLUMNS) - 1), flush=True)
    measurements: list[Measured] = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="vlm-fleet-scale-", dir=folder) as scratch:
            measurements.append(measure_case(name, scale, Path(scratch)))
        print(describe(CASES[name].title, measurements[-1]), flush=True)
    is_within = is_within_limit(measurements)
    print(f"\n{'every peak is within' if is_within else 'a peak is above'} the limit of {PEAK_LIMIT_BYTES / 1e6:.0f} MB")
    return is_within


def is_within_limit(measurements: Sequence[Measured]) -> bool:
    """Return whether every peak is within the limit."""
    return all(one.peak_bytes <= PEAK_LIMIT_BYTES for one in measurements)


def describe(title: str, one: Measured) -> str:
    """Return the row of the table for one case."""
    rates = f"{one.rows / one.wall_s:,.0f} | {one.size_bytes / 1e6 / one.wall_s:,.0f}"
    memory = f"{one.peak_bytes / 1e6:,.0f} | {one.plan_bytes / 1e6:,.1f}"
    return f"| {title} | {one.rows:,} | {one.size_bytes / 1e6:,.0f} | {rates} | {one.wall_s:,.1f} | {one.cpu_s:,.1f} | {memory} |"
