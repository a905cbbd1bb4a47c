"""Measure the queue without a model: enqueue rate, memory, and samples/s of one worker with the echo engine.

    python -m benchmarks.queue [--samples 100000] [--rounds 3]

Each round plans and enqueues a new run of short text questions, then starts one worker and waits for the end. The worker's rate
is measured from the first commit to the last, so it excludes the start-up. The Redis memory is the memory that the run adds
while all of its messages are queued. The producer's memory is the peak of a process that only enqueues.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from common.ledger.connection import connect_redis
from common.ledger.ledger import Ledger
from common.settings import Settings
from producer.demo.redis_server import RedisServer, start_redis

GOALS = {"samples_per_s": 15_000, "enqueued_per_s": 50_000, "redis_mb": 6.4, "producer_mb": 200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vlm-fleet-bench-") as folder, start_redis(Path(folder) / "redis") as server:
        rounds = [measure_round(Path(folder), server, asked.samples, number) for number in range(asked.rounds)]
    medians = {name: statistics.median(one[name] for one in rounds) for name in GOALS}
    print_table(asked.samples, rounds, medians)


def measure_round(folder: Path, server: RedisServer, samples: int, number: int) -> dict[str, float]:
    """Return the measurements of one round, with the keys of ``GOALS``."""
    settings = Settings(redis_url=server.url, store_url=f"file://{folder}/store")
    ledger = Ledger(connect_redis(settings), settings)
    ledger.client.flushall()
    spec_path = write_run(folder, samples, number)
    environment = {**os.environ, "FLEET_REDIS_URL": server.url, "FLEET_STORE_URL": settings.store_url, "FLEET_LOG_LEVEL": "WARNING"}
    before = used_memory(ledger)
    enqueued = json.loads(run_python(["-m", "benchmarks.queue.enqueue", str(spec_path)], environment))
    redis_mb = (used_memory(ledger) - before) / 1e6
    worker = subprocess.Popen([sys.executable, "-m", "workers", "start", "--model", "echo", "--gpus", "none"], env=environment)
    try:
        samples_per_s = wait_and_measure(ledger, enqueued["run_id"], samples)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait()
    return {
        "samples_per_s": samples_per_s,
        "enqueued_per_s": samples / enqueued["seconds"],
        "redis_mb": redis_mb,
        "producer_mb": enqueued["peak_mb"],
    }


def write_run(folder: Path, samples: int, number: int) -> Path:
    rows = (
        json.dumps({"id": at, "question": f"What is in picture {at} of round {number}?", "target": "ok"}) for at in range(samples)
    )
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    spec = folder / "queue.yaml"
    spec.write_text(yaml.safe_dump({"model": "echo", "datasets": [{"path": str(folder / "rows.jsonl")}]}))
    return spec


def run_python(arguments: list[str], environment: dict[str, str]) -> str:
    return subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True, text=True).stdout


def wait_and_measure(ledger: Ledger, run_id: str, samples: int) -> float:
    """Return samples/s between the first and the last commit."""
    first: tuple[float, int] | None = None
    while True:
        view = ledger.view_run(run_id)
        assert view is not None  # noqa: S101  # the run was opened before
        done = sum(view.counts.values())
        if first is None and done:
            first = (view.progress[-1].at_s, done)
        if view.state == "done" and first is not None:
            return (samples - first[1]) / (view.changed_s - first[0])
        time.sleep(0.02)


def used_memory(ledger: Ledger) -> int:
    info: Any = ledger.client.info("memory")
    return int(info["used_memory"])


def print_table(samples: int, rounds: list[dict[str, float]], medians: dict[str, float]) -> None:
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis", "obstore", "pyarrow", "pydantic"))
    print(f"{samples:,} samples, median of {len(rounds)} rounds; {os.cpu_count()} cores, Python {platform.python_version()}")
    print(packages)
    print(f"{'':24}{'median':>12}{'min':>12}{'max':>12}{'goal':>12}")
    for name, goal in GOALS.items():
        values = [one[name] for one in rounds]
        print(f"{name:24}{medians[name]:12,.1f}{min(values):12,.1f}{max(values):12,.1f}{goal:12,}")


if __name__ == "__main__":
    main()
