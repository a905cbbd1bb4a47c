"""The fleet in which commands are ended: a Redis, a store and three runs. Needs Linux."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import yaml

from benchmarks.command_ends.commands import Command
from benchmarks.command_ends.ends import End, Way
from producer.demo.redis_server import start_redis

ROOT = Path(__file__).resolve().parents[2]
_POLL_S = 0.005
_SETUP_S = 300.0
_DEADLINE_S = 120.0
_DEADLINE_LIVES = 20
_SAMPLES = 20
_PROFILES: dict[str, dict[str, object]] = {
    "quick": {},
    "idle": {},
    "slow": {"load_s": 0.3, "delay_s": 86400.0},
    "broken": {"no_such_option": 1},
    "tiny": {"default": "B"},  # replaces the model of the demo
}


class EndsFleet:
    """A fleet that starts and ends commands. ``open_fleet`` creates it. It is thread-safe."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._folder = folder
        self._markers = (f"ends-{os.getpid()}-{number}" for number in itertools.count())
        self._environment = {
            **os.environ,
            "FLEET_REDIS_URL": redis_url,
            "FLEET_STORE_URL": f"file://{folder}/store",
            "FLEET_PROFILES_DIR": str(folder / "profiles"),
            "FLEET_DRAIN_GRACE_S": "1",
            "PYTHONPATH": str(ROOT),
        }
        (folder / "profiles").mkdir()
        for name, options in _PROFILES.items():
            profile = {"name": name, "engine": "echo", "engine_options": options}
            (folder / "profiles" / f"{name}.yaml").write_text(yaml.safe_dump(profile))
        runs = {run: self._enqueue(model) for run, model in (("DONE", "quick"), ("OPEN", "slow"), ("IDLE", "idle"))}
        self._names = {**runs, "SPEC": str(folder / "idle.yaml"), "ROWS": str(folder / "idle.jsonl")}
        self._finish(runs["DONE"])

    def end(self, command: Command, way: Way, number: int, life_s: float) -> tuple[End, float]:
        """Start a command, end it, and return its end and the time until it ended or got its signal.

        The time starts when the command handles signals, after the start of the interpreter. A command that runs until a signal
        gets SIGTERM when it is ready, if no other signal was chosen.
        """
        marker = next(self._markers)
        log, out = self._folder / f"{marker}.log", self._folder / f"{marker}.out"
        process = self._start(command, number, marker, log, out)
        try:
            ends_at = time.monotonic() + max(_DEADLINE_S, _DEADLINE_LIVES * life_s)
            while process.poll() is None and not _handles_signals(process.pid):
                time.sleep(_POLL_S)
            began_at = time.monotonic()

            def is_due() -> bool:
                if way.by is None:
                    return bool(command.ready) and command.ready in log.read_text(errors="replace")
                return time.monotonic() >= began_at + way.fraction * life_s

            while process.poll() is None and not (due := is_due()) and time.monotonic() < ends_at:
                time.sleep(_POLL_S)
            lived_s, sent = time.monotonic() - began_at, None
            if process.poll() is None and due:
                process.send_signal(sent := way.by or signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, ends_at - time.monotonic()))
            left = _describe_marked(marker) if command.starts_processes and process.returncode is not None else ()
            output = log.read_text(errors="replace")
            return End(process.returncode, output, sent, was_ready=bool(sent and not way.by), left=left), lived_s
        finally:
            _kill(process, marker if command.starts_processes else None)
            log.unlink()
            shutil.rmtree(out, ignore_errors=True)

    def _start(self, command: Command, number: int, marker: str, log: Path, out: Path) -> "subprocess.Popen[bytes]":
        names = {**self._names, "OUT": str(out)}
        program, *words = [names.get(word, word.replace("NUMBER", str(number))) for word in command.line.split()]
        with log.open("wb") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", program, *words],
                # Worker names contain the job id, so several launchers can run on one machine.
                env={**self._environment, "SLURM_JOB_ID": marker},
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip

    def _enqueue(self, model: str) -> str:
        """Enqueue a run of the model, and return its id."""
        rows = ({"id": number, "question": f"{model} question {number}?", "target": "ok"} for number in range(_SAMPLES))
        (self._folder / f"{model}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        spec = {"model": model, "datasets": [{"path": str(self._folder / f"{model}.jsonl")}], "chunks": {"max_samples": 5}}
        (self._folder / f"{model}.yaml").write_text(yaml.safe_dump(spec))
        return str(json.loads(self._produce("enqueue", str(self._folder / f"{model}.yaml"), "--json"))["run_id"])

    def _finish(self, run_id: str) -> None:
        """Start a worker and wait until it has answered all samples of a run."""
        launcher = self._start(
            Command("workers start --model quick --gpus none"), 0, marker := next(self._markers), self._folder / "quick.log", Path()
        )
        try:
            self._produce("watch", run_id)
            launcher.terminate()
            launcher.wait(_SETUP_S)
        finally:
            _kill(launcher, marker)

    def _produce(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "producer", *arguments]
        return subprocess.run(
            command, env=self._environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=_SETUP_S
        ).stdout


@contextmanager
def open_fleet(folder: Path) -> Iterator[EndsFleet]:
    """Yield a fleet with its own Redis, and stop the Redis afterwards."""
    with start_redis(folder / "redis") as server:
        yield EndsFleet(folder, server.url)


def _handles_signals(pid: int) -> bool:
    """Return whether the process has a handler for SIGTERM. The interpreter does not install one."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # the process has exited
        return False
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def _find_marked(marker: str) -> list[psutil.Process]:
    """Return the process of a command and all processes that it started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURM_JOB_ID") == marker:
                found.append(process)
    return found


def _describe_marked(marker: str) -> tuple[str, ...]:
    described = []
    for process in _find_marked(marker):
        with suppress(psutil.Error):  # the process has exited
            described.append(" ".join(process.cmdline()))
    return tuple(described)


def _kill(process: "subprocess.Popen[bytes]", marker: str | None) -> None:
    """Kill a command if it still runs. If ``marker`` is set, also kill the processes that the command started."""
    for left in _find_marked(marker) if marker else ():
        with suppress(psutil.Error):
            left.kill()
    process.kill()
    process.wait()
