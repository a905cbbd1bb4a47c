"""A fleet with two workers on each launcher. The benchmark uses it only through its commands and its log."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODEL = "fragile"
CHUNK_SAMPLES = 64
_DRAIN_S = 60.0


class Speed(NamedTuple):
    """The engine's load time, latency and stall limit in seconds, and the samples in flight of each worker."""

    load_s: float
    latency_s: float
    stall_s: float = 600.0
    in_flight: int = 256


class Ended(NamedTuple):
    """The results of a run: its time, outcomes by status, error codes of failed samples by row, and engine deaths.

    ``lost`` counts the rows without an outcome, and ``duplicated`` counts the rows with more than one outcome.
    """

    seconds: float
    statuses: Counter[str]
    failed: dict[str, str]
    deaths: int
    state: str
    reason: str
    lost: int
    duplicated: int


class CostFleet:
    """A fleet with its folder, store, profile and launchers. ``start_fleet`` creates it."""

    def __init__(
        self, folder: Path, redis_url: str, speed: Speed, ends: dict[str, str], launchers: int, control_group: Path | None
    ) -> None:
        self.folder = folder
        self._join = (
            () if control_group is None else ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(control_group / "cgroup.procs"))
        )
        self.speed = speed
        self._environment = {
            **os.environ,
            "FLEET_REDIS_URL": redis_url,
            "FLEET_STORE_URL": f"file://{folder}/store",
            "FLEET_PROFILES_DIR": str(folder / "profiles"),
            "FLEET_MAX_RESTARTS": "1000000",
            "FLEET_ENGINE_STALL_S": str(speed.stall_s),
            "FLEET_SAMPLES_IN_FLIGHT": str(speed.in_flight),
            "FLEET_LOG_JSON": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        }
        options = {"load_s": speed.load_s, "delay_s": speed.latency_s, "ends": ends, "after_s": 0.5}
        profile = {"name": MODEL, "engine": "benchmarks.crash_cost.engine:FragileEngine", "engine_options": options}
        (folder / "profiles").mkdir(parents=True)
        (folder / "profiles" / f"{MODEL}.yaml").write_text(yaml.safe_dump(profile))
        self.launchers = [self.launch() for _ in range(launchers)]

    def launch(self) -> "subprocess.Popen[bytes]":
        command = [*self._join, sys.executable, "-m", "workers", "start", "--model", MODEL, "--gpus", "none", "--replicas", "2"]
        with (self.folder / "workers.log").open("ab") as log:
            return subprocess.Popen(command, env=self._environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def wait_for_workers(self, count: int, run_id: str) -> None:
        self.wait(lambda status: sum(worker["state"] == "ready" for worker in status["workers"]) >= count, run_id)

    def wait(self, condition: Any, run_id: str, deadline_s: float = 1200.0) -> dict[str, Any]:
        """Return the first status that meets the condition."""
        ends_at = time.monotonic() + deadline_s
        while not condition(status := self.status(run_id)):
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{run_id} did not reach the state within {deadline_s:g} s: {status}")
            time.sleep(0.3)
        return status

    def enqueue(self, name: str, samples: int, words: dict[int, str], *, chunk_samples: int = CHUNK_SAMPLES) -> str:
        """Enqueue a run of short questions; ``words`` maps a row to the first word of its question. Return the run's id."""
        path = self.folder / f"{name}.jsonl"
        rows = (
            {"id": f"{words.get(row, 'plain')} {row}", "question": f"{words.get(row, 'plain')} {name} {row}?"}
            for row in range(samples)
        )
        path.write_text("".join(json.dumps({**row, "target": "ok"}) + "\n" for row in rows))
        spec = {"model": MODEL, "datasets": [{"path": str(path)}], "chunks": {"max_samples": chunk_samples}}
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))
        return str(json.loads(self._produce("enqueue", str(self.folder / f"{name}.yaml"), "--json"))["run_id"])

    def resume(self, run_id: str) -> None:
        self._produce("resume", run_id)

    def status(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._produce("status", run_id, "--json"))
        return found

    def read_events(self, event: str) -> list[dict[str, Any]]:
        """Return the records of an event in the log of launchers and workers, in order."""
        lines = (line for line in (self.folder / "workers.log").read_text().splitlines() if f'"{event}"' in line)
        return [record for record in map(json.loads, lines) if record["event"] == event]

    def count_deaths(self) -> int:
        """Return the number of exits of worker processes."""
        return len(self.read_events("worker.exited"))

    def read_takeovers(self, run_id: str, since: float) -> dict[int, float]:
        """Return the time of each chunk's first takeover after ``since``, in Unix seconds, by chunk number."""
        begun: dict[int, float] = {}
        for record in self.read_events("chunk.taken_over"):
            if record["run_id"] == run_id and (at := read_time(record)) >= since:
                begun.setdefault(record["chunk"], at)
        return begun

    def find_ready(self, worker: str, since: float) -> float:
        """Return the time when a worker was first ready after ``since``, in Unix seconds; infinity if it was not ready."""
        times = (read_time(record) for record in self.read_events("worker.ready") if record["worker"] == worker)
        return min((at for at in times if at >= since), default=math.inf)

    def read_answers(self, run_id: str, worker: str) -> list[float]:
        """Return the sorted times of a worker's answers in a collected run, in Unix seconds."""
        table = pq.read_table(self._results(run_id) / "results.parquet", columns=["worker", "finished_at"])
        return sorted(row["finished_at"].timestamp() for row in table.to_pylist() if row["worker"] == worker)

    def finish(self, run_id: str, started_s: float, deaths_before: int) -> Ended:
        """Wait until the run has ended or is paused, collect it, and return its results."""
        status = self.wait(lambda status: status["state"] != "running", run_id)
        seconds = time.monotonic() - started_s
        out = self._results(run_id)
        self._produce("collect", run_id, "--out", str(out))
        rows = pq.read_table(out / "results.parquet", columns=["index", "status", "error_code"]).to_pylist()
        failed = {row["index"]: row["error_code"] for row in rows if row["status"] == "failed"}
        statuses = Counter(row["status"] for row in rows)
        deaths, reason = self.count_deaths() - deaths_before, status["reason"] or ""
        lost = status["samples"]["unique"] - len({row["index"] for row in rows if row["status"] != "unprocessed"})
        duplicated = len(rows) - len({row["index"] for row in rows})
        return Ended(seconds, statuses, failed, deaths, status["state"], reason, lost, duplicated)

    def replace_launchers(self) -> None:
        """Start a new launcher for each launcher that has exited."""
        self.launchers = [one if one.poll() is None else self.launch() for one in self.launchers]

    def restart_launchers(self) -> None:
        """Drain the launchers and start new launchers, whose workers do not have earlier deaths."""
        for launcher in self.launchers:
            launcher.send_signal(signal.SIGTERM)
        for launcher in self.launchers:
            launcher.wait(_DRAIN_S)
        self.replace_launchers()

    def close(self) -> None:
        """End all launchers, and kill workers whose launcher has exited."""
        for launcher in self.launchers:
            launcher.send_signal(signal.SIGQUIT)
        for launcher in self.launchers:
            launcher.wait(_DRAIN_S)
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("FLEET_STORE_URL") == self._environment["FLEET_STORE_URL"]:
                    process.kill()

    def _results(self, run_id: str) -> Path:
        return self.folder / "results" / run_id

    def _produce(self, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "producer", *arguments],
            env=self._environment, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True, timeout=300,
        ).stdout  # fmt: skip


@contextmanager
def start_fleet(
    folder: Path, speed: Speed, ends: dict[str, str] | None = None, *, launchers: int = 1, control_group: Path | None = None
) -> Iterator[CostFleet]:
    """Yield a fleet with its own Redis, and stop all its processes afterwards. Each launcher has two workers.

    The launchers run in the ``control_group``, if the caller gives one.
    """
    from producer.demo.redis_server import start_redis

    folder.mkdir()
    server = start_redis(folder / "redis")
    fleet = CostFleet(folder, server.url, speed, ends or {}, launchers, control_group)
    try:
        yield fleet
    finally:
        fleet.close()
        server.stop()


def read_time(record: dict[str, Any]) -> float:
    """Return the time of a log record in Unix seconds."""
    return datetime.fromisoformat(record["timestamp"]).timestamp()


def spread(count: int, samples: int, seed: int) -> Sequence[int]:
    """Return ``count`` row numbers that are far apart."""
    return [(seed * 977 + number * samples // count) % samples for number in range(count)]
