"""Measure how large datasets are enqueued: rates, peak memory of the producer, and the size of the plan.

Each dataset is generated in a scratch folder, enqueued with ``producer enqueue`` into a local store with its own Redis, and deleted
before the next one. The exit code is 1 if a peak is above the limit. Rates depend on the load of the machine; memory does not.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.scale.cases import CASES
from benchmarks.scale.enqueue import Measured, measure_case

PEAK_LIMIT_BYTES = 500_000_000
_COLUMNS = ("dataset", "rows", "MB", "rows/s", "MB/s", "wall s", "CPU s", "peak MB", "plan MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the size of each dataset; 0.01 is a quick run")
    parser.add_argument("--cases", default=",".join(CASES), help=f"default: {','.join(CASES)}")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="a folder on a disk with enough space")
    asked = parser.parse_args()
    names = asked.cases.split(",")
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"--cases: unknown case {unknown[0]!r}; expected some of {', '.join(CASES)}")
    if asked.scale <= 0:
        parser.error(f"--scale: found {asked.scale:g}; expected a number above 0")
    needed = max(CASES[name].size_bytes * CASES[name].disk_factor for name in names) * asked.scale
    if (free := shutil.disk_usage(asked.folder).free) < needed:
        parser.error(f"--folder: {asked.folder} has {free / 1e9:.1f} GB free; expected {needed / 1e9:.1f} GB for this scale")
    sys.exit(0 if measure_cases(names, asked.scale, asked.folder) else 1)


def measure_cases(names: list[str], scale: float, folder: Path) -> bool:
    """Print a row of a table for each case. Return whether every peak is within the limit."""
    print(
        f"scale {scale:g}; {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the start"
    )
    print(", ".join(f"{name} {version(name)}" for name in ("pyarrow", "pydantic", "msgspec", "obstore", "celery", "redis")))
    print("\n| " + " | ".join(_COLUMNS) + " |\n| --- |" + " --- |" * (len(_COLUMNS) - 1), flush=True)
    peaks = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="vlm-fleet-scale-", dir=folder) as scratch:
            measured = measure_case(name, scale, Path(scratch))
        print(describe(CASES[name].title, measured), flush=True)
        peaks.append(measured.peak_bytes)
    if is_bounded := max(peaks) <= PEAK_LIMIT_BYTES:
        print(f"\nevery peak is within {PEAK_LIMIT_BYTES / 1e6:.0f} MB")
    else:
        print(f"\na peak of {max(peaks) / 1e6:.0f} MB is above the limit of {PEAK_LIMIT_BYTES / 1e6:.0f} MB")
    return is_bounded


def describe(title: str, one: Measured) -> str:
    """Return the row of the table."""
    rates = f"{one.rows / one.wall_s:,.0f} | {one.size_bytes / 1e6 / one.wall_s:,.0f}"
    memory = f"{one.peak_bytes / 1e6:,.0f} | {one.plan_bytes / 1e6:,.1f}"
    return f"| {title} | {one.rows:,} | {one.size_bytes / 1e6:,.0f} | {rates} | {one.wall_s:,.1f} | {one.cpu_s:,.1f} | {memory} |"


if __name__ == "__main__":
    main()
