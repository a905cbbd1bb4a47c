"""Collection does not depend on clock, hash seed or temporary folder: pytest-xdist compares the ids of several processes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Another time of day for whatever reads it while tests are collected, such as a gzip header.
CLOCK = "import time; real = time.time; time.time = lambda: real() + 86_461.5"


def collect(folder: Path, *, hash_seed: str, site: str = "") -> list[str]:
    """Return the ids of all tests in order, as a new process collects them."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(site)
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(folder), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_collection_is_the_same_in_every_process(tmp_path: Path) -> None:
    first = collect(tmp_path / "one", hash_seed="1")
    assert len(first) > 1000
    assert first == collect(tmp_path / "another", hash_seed="2", site=CLOCK)
