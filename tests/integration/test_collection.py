"""Collection is independent of clock, hash seed and temporary folder, because pytest-xdist compares the ids of its processes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Use another time of day. The id of a parameter with a timestamp, for example in a gzip header, then differs.
CLOCK = "import time; real = time.time; time.time = lambda: real() + 86_461.5"


def start_collecting(folder: Path, *, hash_seed: str, site: str = "") -> subprocess.Popen[str]:
    """Start a new process that collects all tests and prints their ids in order."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(site)
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(folder), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "tests"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_ids(collecting: subprocess.Popen[str]) -> list[str]:
    output, _ = collecting.communicate(timeout=110)
    assert collecting.returncode == 0, output[-2000:]
    return [line for line in output.splitlines() if "::" in line]


def test_collection_is_the_same_in_every_process(tmp_path: Path) -> None:
    with (
        start_collecting(tmp_path / "one", hash_seed="1") as one,
        start_collecting(tmp_path / "another", hash_seed="2", site=CLOCK) as another,
    ):
        try:
            first, second = read_ids(one), read_ids(another)
        finally:
            one.kill()
            another.kill()
    assert len(first) > 1000
    assert first == second
