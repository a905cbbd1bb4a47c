"""Measure how large datasets are enqueued: rates, peak memory of the producer, and the size of the plan.

Each dataset is generated in a scratch folder, enqueued with ``producer enqueue`` into a local store with its own Redis, and deleted
before the next dataset. The exit code is 1 if a peak is above the limit. Rates depend on the load of the machine; memory does not.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.scale.cases import CASES
from benchmarks.scale.measure import measure_cases


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


if __name__ == "__main__":
    main()
