"""The fleet of the chaos soak: a Redis, a store, launchers with one worker each, producers, and a sequence of runs."""

import heapq
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import redis
import yaml

from benchmarks.chaos.takeover import Takeovers
from common.broker.app import make_app
from common.ledger.connection import connect_redis
from common.ledger.ledger import Ledger, LedgerView
from common.ledger.worker_registry import list_workers
from common.settings import Settings
from common.storage.store import open_store
from producer.demo.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[2]
ECHO, TINY = "chaos-echo", "chaos-tiny"
CHUNK_SAMPLES = 32
_MOST_TINY_ROWS = 150  # rows of each of the two example datasets in one run
_DRAIN_S = 60.0
_REPLACE_S = 1.0
_POLL_S = 0.1


@dataclass
class Node:
    """A launcher with one worker. ``struck`` is the pid of a worker that a fault hit; later faults do not hit it again."""

    model: str
    launcher: "subprocess.Popen[bytes]"
    struck: int = 0
    is_replaced: bool = False

    @property
    def worker_name(self) -> str:
        return f"cpu{self.launcher.pid}@{socket.gethostname()}"

    def find_worker(self) -> psutil.Process | None:
        with suppress(psutil.Error):
            return next(iter(psutil.Process(self.launcher.pid).children()), None)
        return None


@dataclass
class Run:
    """A run of the soak.

    ``run_id`` is empty until the producer has printed it. ``followed`` is true if the next run has been added.
    """

    model: str
    spec_path: Path
    run_id: str = ""
    ended: bool = False
    followed: bool = False
    view: LedgerView | None = None


@dataclass
class Command:
    """A ``producer`` command in a separate process. ``after`` is called with its exit code and its standard output."""

    process: "subprocess.Popen[str]"
    after: Callable[[int, str], None] | None


@dataclass
class ChaosFleet:
    """All started processes, the scheduled actions, and the observed runs. One thread calls ``tick`` repeatedly.

    ``doomed`` counts the producers that are scheduled to be killed, and that still run or exited before the kill.
    """

    folder: Path
    server: RedisServer
    settings: Settings
    workers: int
    samples: int
    nodes: list[Node] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    ledgers_lost: int = 0
    doomed: int = 0
    redis_is_up: bool = True
    no_more_runs: bool = False

    def __post_init__(self) -> None:
        self.ledger = Ledger(connect_redis(self.settings, patience_s=0), self.settings)
        self.store = open_store(self.settings.store_url)
        self.app = make_app(self.settings)
        self.takeovers = Takeovers(self.ledger)
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._laters = 0
        (self.folder / "asked").mkdir()
        (self.folder / "profiles").mkdir()
        self._write_profile(ECHO, "echo", {"default": "ok", "delay_s": 0.1}, at_once=8)
        self._write_profile(TINY, "tiny", {"dtype": "float32", "max_batch_size": 32}, at_once=64)

    def start(self) -> None:
        """Start the workers, one of them with the tiny model, and enqueue a run of each model."""
        for number in range(self.workers):
            self.nodes.append(self.launch(ECHO if number else TINY))
        for model in (ECHO, TINY):
            self.add_run(model)

    def launch(self, model: str) -> Node:
        command = ["-m", "workers", "start", "--model", model, "--gpus", "none"]
        with (self.folder / "workers.log").open("ab") as log:
            launcher = subprocess.Popen(
                [sys.executable, *command], env=self._environment(), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        return Node(model, launcher)

    def _replace_dead(self) -> None:
        """Start a new launcher, after a short delay, for each launcher that has exited.

        A launcher exits because it was killed, or because it was started while Redis was unavailable.
        """
        for place, node in enumerate(self.nodes):
            if node.launcher.poll() is not None and not node.is_replaced:
                node.is_replaced = True
                self.later(_REPLACE_S, partial(self._launch_at, place))

    def _launch_at(self, place: int) -> None:
        self.nodes[place] = self.launch(self.nodes[place].model)

    def find_ready(self, model: str) -> list[Node]:
        """Return the nodes whose worker is ready and was not hit by a fault, or an empty list while Redis does not respond."""
        try:
            present = {worker.worker: worker for worker in list_workers(self.ledger.client, model)} if self.redis_is_up else {}
        except redis.RedisError:
            return []
        found = []
        for node in self.nodes:
            record, process = present.get(node.worker_name), node.find_worker()
            if node.model == model and record and process and record.state == "ready" and node.struck != record.pid == process.pid:
                found.append(node)
        return found

    # Runs and producers

    def add_run(self, model: str) -> None:
        """Enqueue another run. Its datasets have new names, so that its sample ids differ from those of the other runs."""
        number = len(self.runs)
        if model == ECHO:
            path = self.folder / f"rows-{number}.jsonl"
            rows = ({"id": row, "question": f"What is {row} of {number}?", "target": "ok"} for row in range(self.samples))
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            datasets: list[dict[str, object]] = [{"path": str(path)}]
        else:
            examples = ROOT / "examples" / "data"
            datasets = [
                {"path": str(examples / "digits.tsv"), "name": f"digits-{number}"},
                {"path": str(examples / "shapes.jsonl"), "name": f"shapes-{number}", "fields": {"id": "qid", "target": "answer"}},
            ]
            datasets = [{**dataset, "limit": min(_MOST_TINY_ROWS, self.samples // 20)} for dataset in datasets]
        spec = {"model": model, "datasets": datasets, "chunks": {"max_samples": CHUNK_SAMPLES}, "shuffle": {"seed": number}}
        run = Run(model, self.folder / f"run-{number}.yaml")
        run.spec_path.write_text(yaml.safe_dump(spec))
        self.runs.append(run)
        self.enqueue(run)

    def enqueue(self, run: Run) -> None:
        """Enqueue the run, and retry until it succeeds, as a user does."""

        def read(code: int, printed: str) -> None:
            if code == 0:
                run.run_id = json.loads(printed)["run_id"]
            else:
                self.later(1.0, lambda: self.enqueue(run))

        self.produce(["enqueue", str(run.spec_path), "--json"], read)

    def rebuild(self, run: Run) -> None:
        """Delete the run from Redis and rebuild it from the store, and retry until that succeeds."""
        self.takeovers.forget_run(run.run_id)

        def read(code: int, printed: str) -> None:
            del printed
            self.takeovers.forget_run(run.run_id)
            if code != 0:
                self.later(1.0, lambda: self.rebuild(run))

        self.produce(["resume", run.run_id, "--rebuild"], read)

    def produce(self, arguments: Sequence[str], after: Callable[[int, str], None] | None = None) -> Command:
        with (self.folder / "producers.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "producer", *arguments],
                env=self._environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        self.commands.append(command := Command(process, after))
        return command

    # Scheduling

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._laters += 1
        heapq.heappush(self._later, (time.monotonic() + delay_s, self._laters, action))

    @property
    def is_quiet(self) -> bool:
        """Whether no action is scheduled and no command runs."""
        return not self._later and not self.commands

    @property
    def open_runs(self) -> list[Run]:
        return [run for run in self.runs if run.run_id and not run.ended]

    def tick(self) -> None:
        """Run the actions that are due, read runs and takeovers, and enqueue a new run for each run that has ended."""
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()
        for command in [command for command in self.commands if command.process.poll() is not None]:
            self.commands.remove(command)
            printed = command.process.communicate()[0]
            if command.after:
                command.after(command.process.returncode, printed)
        self._replace_dead()
        self.look()
        for run in [run for run in self.runs if run.ended and not run.followed]:
            run.followed = True
            if not self.no_more_runs:
                self.add_run(run.model)

    def look(self) -> None:
        """Read runs and takeovers from the ledger, unless Redis is unavailable."""
        if self.redis_is_up:
            with suppress(redis.RedisError):
                self._look()

    def _look(self) -> None:
        self.takeovers.poll([run.run_id for run in self.open_runs])
        for run in self.open_runs:
            view = self.ledger.view_run(run.run_id)
            if view is None and not self.commands:
                self.ledgers_lost += 1
                self.enqueue(run)
            run.view = view or run.view
            run.ended = view is not None and view.state != "running" and not self.commands

    # Shutdown

    def drain(self) -> None:
        """Send SIGTERM to all launchers, and wait for them and for workers without a launcher."""
        for node in self.nodes:
            node.launcher.send_signal(signal.SIGTERM)
        for node in self.nodes:
            with suppress(subprocess.TimeoutExpired):
                node.launcher.wait(_DRAIN_S)
        ends_at = time.monotonic() + _DRAIN_S
        while self.find_processes() and time.monotonic() < ends_at:
            time.sleep(_POLL_S)

    def end(self) -> int:
        """Kill all remaining processes of this fleet except Redis, and return their number."""
        left = self.find_processes()
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        for node in self.nodes:
            node.launcher.wait()
        for command in self.commands:
            command.process.communicate()
        psutil.wait_procs(left, timeout=10)
        return len(left)

    def find_processes(self) -> list[psutil.Process]:
        """Return the processes that use this fleet's store: launchers, workers, children of engines and producers."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("FLEET_STORE_URL") == self.settings.store_url:
                    found.append(process)
        return found

    def _write_profile(self, name: str, base: str, options: dict[str, object], at_once: int) -> None:
        profile = yaml.safe_load((ROOT / "workers" / "profiles" / f"{base}.yaml").read_text())
        runs, asked = profile["engine"], str(self.folder / "asked")
        profile["engine"] = "benchmarks.chaos.engine:ChaosEngine"
        profile["engine_options"] = {"runs": runs, "options": options, "at_once": at_once, "asked": asked}
        profile["weights"] = str(ROOT / "examples" / "tiny" / "model")
        (self.folder / "profiles" / f"{name}.yaml").write_text(yaml.safe_dump({**profile, "name": name}))

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "FLEET_REDIS_URL": self.settings.redis_url.get_secret_value(),
            "FLEET_STORE_URL": self.settings.store_url,
            "FLEET_PROFILES_DIR": str(self.folder / "profiles"),
            "FLEET_MAX_RESTARTS": "1000000",
            "OMP_NUM_THREADS": "1",  # by default the torch threads of all workers compete for the same cores
            "PYTHONPATH": str(ROOT),
        }
