"""A complete fleet for tests: a real Redis, a local store, profiles and specs, and real workers in their own processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.broker.app import make_app
from common.ledger.connection import connect_redis
from common.ledger.ledger import Ledger
from common.ledger.worker_registry import WorkerRecord, list_workers
from common.records import Outcome
from common.settings import Settings, get_settings
from common.spec.files import read_specs
from common.storage.store import Store, open_store
from producer.datasets.survey import survey_specs
from producer.demo.redis_server import RedisServer, start_redis
from producer.planning.requests import read_requests
from producer.results.collect import collect_outcomes
from producer.runs.enqueue import Enqueued, enqueue_run
from producer.runs.status import RunStatus, read_status
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Fleet:
    """One test's services and folder. It starts and stops all of its processes."""

    folder: Path
    server: RedisServer
    settings: Settings
    _launchers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return open_store(self.settings.store_url)

    @property
    def ledger(self) -> Ledger:
        return Ledger(connect_redis(self.settings), self.settings)

    def write_profile(self, name: str, *, engine: str = "echo", **fields: Any) -> str:
        """Write a model profile into the folder where producer and workers look for it."""
        path = self.folder / "profiles" / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "engine": engine, "weights": name, **fields}))
        return name

    def write_changing_profile(self, name: str, engine: str, options: Mapping[str, Any]) -> None:
        """Write a profile whose engine options are in a file that can change during a run.

        Engine options identify a run, so the profile contains only the path of the file (``read_options``).
        """
        path = self.folder / f"{name}.options.yaml"
        path.write_text(yaml.safe_dump(dict(options)))
        self.write_profile(name, engine=engine, engine_options={"options_file": str(path)})

    def write_dataset(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def write_spec(self, model: str, datasets: Iterable[Path | Mapping[str, Any]], **fields: Any) -> Path:
        sources = [{"path": str(source)} if isinstance(source, Path) else dict(source) for source in datasets]
        path = self.folder / f"{model}.spec.yaml"
        path.write_text(yaml.safe_dump({"model": model, "datasets": sources, **fields}))
        return path

    def enqueue(self, spec_path: Path) -> Enqueued:
        (spec,), _ = survey_specs(read_specs(spec_path))
        return enqueue_run(spec, read_requests(spec), self.store, self.ledger, make_app(self.settings))

    def run_producer(self, *arguments: str, code: int = 0) -> str:
        """Run a ``producer`` command as a user does; return its standard output, or its standard error if it must fail."""
        command = [sys.executable, "-m", "producer", *arguments]
        done = subprocess.run(command, env=self.environment(), cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if code >= 2 else done.stdout

    def start_workers(self, model: str, **settings: object) -> subprocess.Popen[bytes]:
        """Run ``workers start`` for a CPU slot; its log goes to ``workers.log``. Keyword arguments are ``FLEET_*`` settings."""
        with (self.folder / "workers.log").open("ab") as log:
            launcher = subprocess.Popen(
                [sys.executable, "-m", "workers", "start", "--model", model, "--gpus", "none"],
                env=self.environment(**settings), cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip
        self._launchers.append(launcher)
        return launcher

    def environment(self, **settings: object) -> dict[str, str]:
        named = {
            "FLEET_REDIS_URL": self.settings.redis_url.get_secret_value(),
            "FLEET_STORE_URL": self.settings.store_url,
            "FLEET_PROFILES_DIR": str(self.folder / "profiles"),
            "FLEET_LEASE_S": str(self.settings.lease_s),
            "FLEET_RENEW_S": str(self.settings.renew_s),
            "FLEET_JANITOR_S": str(self.settings.janitor_s),
            **{f"FLEET_{name.upper()}": str(value) for name, value in settings.items()},
        }
        return {**os.environ, **named, "PYTHONPATH": str(ROOT)}

    def workers(self, model: str) -> list[WorkerRecord]:
        """Return the workers in the worker registry."""
        return list_workers(self.ledger.client, model)

    def wait_for_workers(self, model: str, count: int = 1) -> list[WorkerRecord]:
        """Return the workers of a model once ``count`` of them have loaded."""
        return wait_until(
            lambda: found if len(found := [one for one in self.workers(model) if one.state != "loading"]) >= count else None,
            f"{count} workers of {model}",
        )

    def status(self, run_id: str) -> RunStatus:
        return read_status(run_id, self.store, self.ledger)

    def wait_for_end(self, run_id: str, *, deadline_s: float = 90.0) -> RunStatus:
        """Wait until a run has ended and return its status. After the deadline, show the workers' log."""
        try:
            return wait_until(
                lambda: status if (status := self.status(run_id)).state != "running" else None,
                f"the end of {run_id}",
                deadline_s=deadline_s,
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.status(run_id)}\n{self.read_log()[-6000:]}") from None

    def collect(self, run_id: str) -> list[Outcome]:
        return list(collect_outcomes(run_id, self.store))

    def read_log(self) -> str:
        path = self.folder / "workers.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop_workers(self) -> None:
        """Drain the running workers; kill those that do not exit."""
        for launcher in self._launchers:
            if launcher.poll() is None:
                launcher.send_signal(signal.SIGTERM)
        for launcher in self._launchers:
            try:
                launcher.wait(timeout=60)
            except subprocess.TimeoutExpired:
                launcher.kill()
                launcher.wait()
        self._launchers.clear()


@contextmanager
def start_fleet(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Fleet]:
    """Start an empty fleet in ``folder``. By default leases are short, so that faults are detected soon."""
    (folder / "profiles").mkdir()
    monkeypatch.setenv("FLEET_PROFILES_DIR", str(folder / "profiles"))
    get_settings.cache_clear()
    with start_redis(folder / "redis") as server:
        chosen = {"store_url": f"file://{folder}/store", "lease_s": 3.0, "renew_s": 0.5, "janitor_s": 0.5, **settings}
        fleet = Fleet(folder, server, Settings(redis_url=server.url, **chosen))
        open_store(fleet.settings.store_url)  # workers wait for the store's folder
        try:
            yield fleet
        finally:
            fleet.stop_workers()
            get_settings.cache_clear()


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    with start_fleet(tmp_path, monkeypatch) as started:
        yield started


def make_rows(count: int, *, dataset: str = "rows") -> list[dict[str, object]]:
    """Return ``count`` different text questions whose target is the echo engine's default answer."""
    return [{"id": number, "question": f"{dataset} question {number}?", "target": "ok"} for number in range(count)]
