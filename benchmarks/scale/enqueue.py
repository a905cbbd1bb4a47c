"""Generate a dataset, enqueue it in a separate process, and measure that process. Part of ``benchmarks.scale``.

The process is ``producer enqueue``. Its time therefore includes the start of the process, the digest of the files, the survey,
rendering, the shuffle, writing the plan to a local store, opening the run in Redis, and publishing a message for each chunk.
"""

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.scale.cases import CASES
from producer.demo.redis_server import start_redis


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one enqueueing. ``peak_bytes`` is the largest resident memory of the process or one of its children."""

    rows: int
    size_bytes: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    plan_bytes: int


def measure_case(name: str, scale: float, folder: Path) -> Measured:
    """Generate a dataset in the empty ``folder`` and enqueue it. Raises ``RuntimeError`` with the output of a failed process."""
    data, store, scratch = (folder / part for part in ("data", "store", "scratch"))
    for part in (data, store, scratch):
        part.mkdir()
    size = max(1, round(CASES[name].size * scale))
    # Generate in a separate process. A process inherits the peak of its parent at exec, so a high peak of this process would count.
    _run([sys.executable, "-m", "benchmarks.scale.cases", name, str(data), str(size)], dict(os.environ), folder)
    spec = folder / "scale.yaml"
    dataset = {"path": str(data / CASES[name].path), "name": name, "question": "Describe the image."}
    spec.write_text(yaml.safe_dump({"model": "echo", "datasets": [dataset]}))
    with start_redis(folder / "redis") as server:
        environment = {
            **os.environ,
            "FLEET_REDIS_URL": server.url,
            "FLEET_STORE_URL": f"file://{store}",
            "FLEET_LOG_LEVEL": "ERROR",
            "TMPDIR": str(scratch),
        }
        begun_at = time.perf_counter()
        used, output = _run([sys.executable, "-m", "producer", "enqueue", str(spec), "--json"], environment, folder)
        wall_s = time.perf_counter() - begun_at
    enqueued = json.loads(output)
    if enqueued["rung"] != enqueued["plan"]["chunks"] or enqueued["plan"]["faults"]:
        raise RuntimeError(f"{name}: expected a message for every chunk and rows without faults; found {output}")
    return Measured(
        rows=sum(dataset["rows"] for dataset in enqueued["plan"]["datasets"]),
        size_bytes=count_bytes(data),
        wall_s=wall_s,
        cpu_s=used.ru_utime + used.ru_stime,
        peak_bytes=used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        plan_bytes=count_bytes(store),
    )


def count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _run(command: list[str], environment: dict[str, str], folder: Path) -> tuple[resource.struct_rusage, str]:
    """Run a command. Return its resource usage and its standard output."""
    output, errors = folder / "output", folder / "errors"
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        child = subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {child.returncode}: {errors.read_text()[-2000:]}")
    return used, output.read_text()
