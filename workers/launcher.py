"""The node launcher: one supervised Celery worker process for each GPU slot.

Each worker leads its own session, so that Ctrl+C in the terminal reaches the launcher alone, and so that killing the
worker's process group also ends an engine's child processes, which would otherwise keep the GPU's memory.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import structlog

from common.broker import queue_name
from common.errors import ConfigError
from common.settings import Settings
from common.spec_files import read_profile
from workers.slot import CANNOT_START

log = structlog.get_logger()

_POLL_S = 0.2
_BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_HEALTHY_AFTER_S = 60.0
_KILL_AFTER_S = 15.0  # on top of the drain's grace


@dataclass(frozen=True)
class GpuSlot:
    """Where one worker runs: its name and its ``CUDA_VISIBLE_DEVICES`` (empty: no GPU)."""

    name: str
    devices: str


def parse_gpus(asked: str) -> list[GpuSlot]:
    """Return the slots for ``none``, ``all`` or GPU numbers such as ``0,1``.  Raises ``ConfigError``."""
    if asked == "none":
        # Several launchers may run on one machine, and Celery wants its node names unique.
        return [GpuSlot(f"cpu{os.getpid()}", "")]
    listed = [str(number) for number in range(count_gpus())] if asked == "all" else [text.strip() for text in asked.split(",")]
    numbers = {int(text) for text in listed if text.isdecimal()}
    if len(numbers) < len(listed):
        raise ConfigError(f"--gpus {asked!r}: expected none, all, or different GPU numbers such as 0 or 0,1")
    return [GpuSlot(f"gpu{number}", str(number)) for number in sorted(numbers)]


def count_gpus() -> int:
    """Return how many GPUs the NVIDIA driver shows.  Raises ``ConfigError`` when there is none to be found."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=30)  # noqa: S607  # found on PATH
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"--gpus all: nvidia-smi does not answer ({error}); name the GPUs (--gpus 0,1) or use --gpus none"
        ) from error
    if count := len(listed.stdout.splitlines()):
        return count
    raise ConfigError("--gpus all: the driver shows no GPU; use --gpus none")


class Supervised:
    """One slot's worker process: started, watched, killed whole, and started again after a pause that grows."""

    def __init__(self, slot: GpuSlot, profile: str, model: str, settings: Settings) -> None:
        self.name = f"{slot.name}@{socket.gethostname()}"
        self.gave_up = False
        self._command = [
            *(sys.executable, "-m", "celery", "-q", "-A", "workers.app", "worker", "-P", "threads"),
            *("-c", str(settings.chunks_in_flight), "-Q", queue_name(model), "-n", self.name),
            *("--without-gossip", "--without-mingle", "-l", settings.log_level),
        ]
        self._environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": slot.devices,
            "FLEET_WORKER_PROFILE": profile,
            "FLEET_WORKER_DEVICE": slot.name,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_at = 0.0
        self._failures = 0

    @property
    def running(self) -> bool:
        return self._process is not None

    def watch(self) -> None:
        """Start the process if it is due; note its end, and plan the next start."""
        if self._process is None:
            if not self.gave_up and time.monotonic() >= self._start_at:
                self._start()
            return
        code = self._process.poll()
        if code is None:
            return
        self.kill()
        if code == CANNOT_START:
            self.gave_up = True
        healthy = time.monotonic() - self._started_at > _HEALTHY_AFTER_S
        self._failures = 1 if healthy else self._failures + 1
        pause_s = _BACKOFF_S[min(self._failures, len(_BACKOFF_S)) - 1]
        self._start_at = time.monotonic() + pause_s
        log.warning("worker ended", worker=self.name, exit_code=code, again_in_s=None if self.gave_up else pause_s)

    def send(self, number: signal.Signals) -> None:
        """Signal the worker process alone."""
        if self._process is not None:
            self._process.send_signal(number)

    def reap(self) -> bool:
        """Return whether the process has ended, its whole group killed by then."""
        if self._process is not None and self._process.poll() is not None:
            self.kill()
        return self._process is None

    def kill(self) -> None:
        """End the worker and everything it started, at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, env=self._environment, start_new_session=True)  # noqa: S603  # our own command
        self._started_at = time.monotonic()
        log.info("worker started", worker=self.name, pid=self._process.pid)


class Launcher:
    """Keeps one worker a slot running until told to stop: SIGTERM or Ctrl+C drains, a second one kills."""

    def __init__(self, profile: str, slots: Sequence[GpuSlot], settings: Settings) -> None:
        model = read_profile(profile).name
        self._settings = settings
        self._workers = [Supervised(slot, profile, model, settings) for slot in slots]
        self._stops_asked = 0

    def run(self) -> int:
        """Supervise until stopped; return the exit code: 0 after a drain, 2 when no worker can start, 130 when killed."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        while not self._stops_asked:
            for worker in self._workers:
                worker.watch()
            if all(worker.gave_up for worker in self._workers):
                return 2
            time.sleep(_POLL_S)
        return self._drain()

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._stops_asked += 1

    def _drain(self) -> int:
        log.info("draining; once more to kill", grace_s=self._settings.drain_grace_s)
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        deadline = time.monotonic() + self._settings.drain_grace_s + _KILL_AFTER_S
        while not all([worker.reap() for worker in self._workers]):  # noqa: C419  # every one is to be reaped
            if self._stops_asked > 1 or time.monotonic() > deadline:
                for worker in self._workers:
                    worker.kill()
                return 130
            time.sleep(_POLL_S)
        return 0
