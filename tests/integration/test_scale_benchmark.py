"""The benchmark of scale runs end to end and leaves no files."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scale.cases import CASES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.redis
@pytest.mark.slow
def test_quick_run_measures_every_case(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--scale", "0.001", "--folder", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = [line.split(" | ") for line in ended.stdout.splitlines() if line.startswith("| ")][2:]
    assert [row[0].removeprefix("| ") for row in rows] == [case.title for case in CASES.values()]
    assert rows[0][1] == "1,000"
    assert list(tmp_path.iterdir()) == []
