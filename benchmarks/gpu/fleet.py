"""The fleet that the GPU benchmarks measure: a Redis, a store, and workers that the launcher starts."""

import argparse
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import yaml

from benchmarks.chaos.verdict import judge_run
from benchmarks.gpu.passes import Pass, make_pass
from benchmarks.gpu.questions import SAMPLES_IN_FLIGHT, Asking, dictate_length, write_run
from benchmarks.gpu.watch import CpuWatch, GpuWatch
from common.broker.app import make_app
from common.errors import ConfigError, FleetError
from common.ledger.connection import connect_redis
from common.ledger.ledger import Ledger, LedgerView
from common.ledger.worker_registry import WorkerRecord, list_workers
from common.settings import Settings
from common.spec.files import read_specs
from common.storage.store import open_store
from producer.demo.redis_server import RedisServer, start_redis
from producer.planning.requests import read_requests
from producer.results.collect import collect_outcomes
from producer.runs.enqueue import enqueue_run
from workers.supervisor.gpus import list_gpus

ROOT = Path(__file__).resolve().parents[2]
_READY_S = 400.0
_STOP_S = 15.0
_POLL_S = 0.1


@dataclass
class GpuFleet:
    """All started processes. ``logs`` is the file for the output of all processes."""

    folder: Path
    logs: Path
    server: RedisServer
    settings: Settings
    image_px: int
    watch: GpuWatch
    launcher: "subprocess.Popen[bytes] | None" = None
    profile: Path | None = None
    run_ids: dict[str, str] = field(default_factory=dict)
    _specs: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(connect_redis(self.settings), self.settings)
        self.store = open_store(self.settings.store_url)
        self.app = make_app(self.settings)

    @property
    def environment(self) -> dict[str, str]:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "FLEET_REDIS_URL": self.server.url,
            "FLEET_STORE_URL": self.settings.store_url,
            "FLEET_SAMPLES_IN_FLIGHT": str(SAMPLES_IN_FLIGHT),
            "FLEET_DRAIN_GRACE_S": "5",
            "FLEET_MAX_RESTARTS": "2",  # a worker that cannot load is reported soon
            "FLEET_LOG_LEVEL": "WARNING",
            "PYTHONPATH": os.pathsep.join(paths),
        }

    # Workers

    def write_profile(self, name: str, engine: str, weights: Path, options: Mapping[str, Any]) -> Path:
        """Write a model profile with one attempt that accepts every answer."""
        path = self.folder / f"{name}.yaml"
        profile = {
            "name": name,
            "engine": engine,
            "weights": str(weights),
            "adapter": "qwen",
            "engine_options": dict(options),
            "validation": {"max_attempts": 1, "validators": []},
        }
        path.write_text(yaml.safe_dump(profile))
        return path

    def start_workers(self, profile: Path, gpus: str, *, replicas: int = 1) -> None:
        """Start a launcher. ``wait_ready`` waits until its workers have loaded."""
        self.profile = profile
        command = ["-m", "workers", "start", "--model", str(profile), "--gpus", gpus, "--replicas", str(replicas)]
        with self.logs.open("ab") as log:
            self.launcher = subprocess.Popen(
                [sys.executable, *command], env=self.environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def wait_ready(self, count: int = 1) -> float:
        """Wait until this number of workers has loaded, and return the waiting time in seconds.

        Exit the program if the launcher exits or the wait takes too long.
        """
        begun_at = time.monotonic()
        while len(ready := self.find_ready()) < count:
            if self.launcher is None or self.launcher.poll() is not None or time.monotonic() > begun_at + _READY_S:
                names = [one.worker for one in ready]
                sys.exit(f"expected {count} ready workers, found {names}; the end of {self.logs}:\n{self.read_log()}")
            time.sleep(_POLL_S)
        return time.monotonic() - begun_at

    def find_ready(self) -> list[WorkerRecord]:
        name = self.profile.stem if self.profile else ""
        return [one for one in list_workers(self.ledger.client, name) if one.state == "ready"]

    def stop_workers(self) -> None:
        """Drain the workers, and kill the processes that have not ended in time."""
        if self.launcher is None:
            return
        for number in (signal.SIGTERM, signal.SIGQUIT):
            with suppress(subprocess.TimeoutExpired):
                self.launcher.send_signal(number)
                self.launcher.wait(_STOP_S)
                break
        end_tree(self.launcher)
        self.launcher = None

    def read_log(self) -> str:
        return "\n".join(self.logs.read_text(errors="replace").splitlines()[-60:])

    # Runs

    def prepare(self, asking: Asking) -> None:
        """Write the pictures, the dataset and the spec of a run ahead of time."""
        if self.profile is None:
            raise ConfigError("prepare: no profile is set; call start_workers first")
        self._specs[asking.name] = write_run(self.folder, asking, profile=self.profile, image_px=self.image_px)

    def enqueue(self, asking: Asking) -> str:
        """Enqueue a run and return its id."""
        (spec,) = read_specs(self._specs[asking.name])
        enqueue_run(spec, read_requests(spec), self.store, self.ledger, self.app)
        self.run_ids[asking.name] = spec.run_id
        return spec.run_id

    def view(self, run_id: str) -> LedgerView:
        view = self.ledger.view_run(run_id)
        if view is None:
            sys.exit(f"the ledger does not contain run {run_id}")
        return view

    def is_over(self, run_id: str) -> bool:
        """Return whether a run is done. Exit the program if the run stops for another reason or the launcher exits."""
        view = self.view(run_id)
        if view.state not in ("running", "done") or (self.launcher is not None and self.launcher.poll() is not None):
            sys.exit(f"run {run_id} is {view.state} {view.reason}; the end of {self.logs}:\n{self.read_log()}")
        return view.state == "done"

    def measure(self, asking: Asking, side: str = "fleet", *, has_dictated_lengths: bool = True) -> Pass:
        """Enqueue a run, wait for its end and verify it. Its time is from the first lease to the last commit."""
        cpu = CpuWatch(self.launcher.pid if self.launcher else os.getpid())
        begun_at = time.monotonic()
        run_id = self.enqueue(asking)
        planned_s = time.monotonic() - begun_at
        while not self.is_over(run_id):
            time.sleep(_POLL_S)
        used = cpu.describe()
        self.check(asking, has_dictated_lengths=has_dictated_lengths)
        return self.describe(asking, side, used, {"planned and enqueued in s": round(planned_s, 2)})

    def describe(self, asking: Asking, side: str, cpu: list[dict[str, Any]], notes: dict[str, Any]) -> Pass:
        """Return the measurements of a run that is done."""
        run_id = self.run_ids[asking.name]
        view = self.view(run_id)
        answered = [
            (outcome.finished_at or 0.0, outcome.prompt_tokens or 0, outcome.output_tokens or 0)
            for outcome in collect_outcomes(run_id, self.store)
        ]
        one = make_pass(side, asking.name, view.started_s, view.changed_s, answered, cpu)
        return replace(one, gpus=self.watch.describe(one.begun_s, one.ended_s), notes=notes)

    def check(self, asking: Asking, *, has_dictated_lengths: bool = True) -> None:
        """Exit the program unless every sample has exactly one outcome, which is ``ok`` and has the dictated length."""
        run_id = self.run_ids[asking.name]
        verdict = judge_run(run_id, self.store, self.ledger)
        wrong_lengths = has_dictated_lengths and sum(
            outcome.output_tokens != dictate_length(outcome.sample_id, asking.max_tokens)
            for outcome in collect_outcomes(run_id, self.store)
        )
        is_whole = verdict.samples == asking.samples and dict(verdict.outcomes) == {"ok": asking.samples}
        if not is_whole or verdict.lost or verdict.duplicated or verdict.wrongs or wrong_lengths:
            sys.exit(f"{asking.name} failed the check: {verdict}, {wrong_lengths} wrong answer lengths; log:\n{self.read_log()}")


@contextmanager
def open_fleet(out: Path, *, image_px: int, deadline_s: int) -> Iterator[GpuFleet]:
    """Yield a fleet without workers. End all its processes after the block, and exit the program after ``deadline_s``."""
    _end_after(deadline_s)
    with tempfile.TemporaryDirectory(prefix="vlm-fleet-gpu-", ignore_cleanup_errors=True) as scratch, GpuWatch() as watch:
        folder = Path(scratch)
        with start_redis(folder / "redis") as server:
            settings = Settings(redis_url=server.url, store_url=f"file://{folder}/store")
            fleet = GpuFleet(folder, out / "processes.log", server, settings, image_px, watch)
            try:
                yield fleet
            finally:
                signal.alarm(0)
                fleet.stop_workers()


def end_tree(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and its running descendants, and wait until they have exited, so that their GPU memory is free."""
    family: list[psutil.Process] = []
    with suppress(psutil.Error):
        root = psutil.Process(process.pid)
        family = [*root.children(recursive=True), root]
    for one in family:
        with suppress(psutil.Error):
            one.kill()
    process.wait()
    psutil.wait_procs(family, timeout=_STOP_S)


def _end_after(seconds: int) -> None:
    """Exit in an orderly way after ``seconds``, or on SIGTERM.

    The cleanup then ends all started processes. If this program is killed instead, they keep running and hold GPU memory.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        sys.exit(f"ended by {signal.Signals(number).name}; the measurements so far are kept")

    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, leave)
    signal.alarm(seconds)


def make_parser(description: str, name: str, *, gpus: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all GPU benchmarks share."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--gpus", default=gpus, help=f"the GPUs, as for workers start (default: {gpus})")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an engine option for all sides")
    parser.add_argument("--out", type=Path, default=Path(), help=f"folder for {name}.jsonl and processes.log (default: here)")
    parser.add_argument("--deadline-s", type=int, default=570, help="stop all processes after this time in seconds (default: 570)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few samples, for a CPU")
    return parser


def read_options(given: Sequence[str]) -> dict[str, Any]:
    """Parse arguments NAME=VALUE as engine options. Values are YAML."""
    return {name: yaml.safe_load(value) for name, _, value in (one.partition("=") for one in given)}


def print_machine(packages: Sequence[str]) -> None:
    """Print the machine and the versions that a result applies to."""
    try:
        gpus = ", ".join(gpu.name for gpu in list_gpus())
    except FleetError:
        gpus = "no GPU"
    print(f"{gpus}; {os.cpu_count()} cores, Python {platform.python_version()}, {socket.gethostname()}")
    print(", ".join(f"{name} {found}" for name in packages if (found := _find_version(name))), flush=True)


def _find_version(package: str) -> str:
    with suppress(PackageNotFoundError):
        return version(package)
    return ""
