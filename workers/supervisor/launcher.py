"""The node launcher: one supervised Celery worker process for each assignment, of one model or several.

Each worker leads its own session, so that Ctrl+C in the terminal reaches the launcher alone, and so that killing the
worker's process group also ends an engine's child processes, which would otherwise keep the GPU's memory.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import structlog

from common.broker.app import queue_name
from common.commands import INTERRUPTED, NOT_ALL_OK, USER_MUST_ACT
from common.digests import name_node
from common.ledger.worker_registry import WorkerRecord
from common.settings import Settings
from workers.runtime.worker import CANNOT_START
from workers.supervisor.placement import Assignment, GpuSlot
from workers.supervisor.restart_policy import NOT_STARTED, RestartPolicy, describe_giving_up, name_code, tell_given_up
from workers.supervisor.signals import DRAINING

log = structlog.get_logger()

_POLL_S = 0.2
_MOST_THREADS_BESIDE_GPU = 4
_KILL_AFTER_S = 15.0  # on top of the drain's grace


class WorkerProcess:
    """One slot's worker process: started, watched, killed whole, and started again until its budget is used up.

    ``gave_up`` is why it is not started again, for a person.
    """

    def __init__(self, assignment: Assignment, settings: Settings, *, workers: int = 1) -> None:
        slot = assignment.slot
        self.name = f"{slot.name}@{name_node()}"
        self.device = slot.name
        self.devices = slot.devices
        self.model = assignment.model
        self.pid = 0
        self.last_code = 0
        self.gave_up: str | None = None
        self._command = [
            *(sys.executable, "-m", "celery", "-q", "-A", "workers.app", "worker", "-P", "threads"),
            *("-c", str(settings.chunks_in_flight), "-Q", queue_name(self.model), "-n", self.name),
            *("--without-gossip", "--without-mingle", "-l", settings.log_level),
        ]
        self._environment = {
            "OMP_NUM_THREADS": str(count_threads(slot, workers)),
            **os.environ,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # CUDA's numbers are then NVML's
            "CUDA_VISIBLE_DEVICES": slot.devices,
            "FLEET_WORKER_PROFILE": assignment.profile,
            "FLEET_WORKER_DEVICE": slot.name,
            "FLEET_WORKER_GPU": slot.gpu,
            "FLEET_WORKER_LAUNCHER": str(os.getpid()),
            "FLEET_WORKER_PRESET": json.dumps(assignment.preset.options),
        }
        self._most_restarts = settings.max_restarts
        self._restarts = RestartPolicy(settings.max_restarts)
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded_pipe: int | None = None
        self._started_at = 0.0
        self._start_at = 0.0

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def loading(self) -> bool:
        """Whether the process runs and has not said yet that its engine is loaded."""
        return self._loaded_pipe is not None and not select.select([self._loaded_pipe], [], [], 0)[0]

    def watch(self, *, may_start: bool = True) -> bool:
        """Start the process if it is due and ``may_start``, or note its end.  Returns whether it was given up just now."""
        if self._process is not None:
            code = self._process.poll()
            return code is not None and self._note_end(code)
        if self.gave_up or not may_start or time.monotonic() < self._start_at:
            return False
        try:
            self._start()
        except OSError as error:
            log.warning("the system cannot start a worker", worker=self.name, error=str(error))
            return self._note_end(NOT_STARTED)
        return False

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
        if self._loaded_pipe is not None:
            os.close(self._loaded_pipe)
            self._loaded_pipe = None

    def _start(self) -> None:
        self._started_at = time.monotonic()
        self._loaded_pipe, for_worker = os.pipe()
        environment = {**self._environment, "FLEET_WORKER_LOADED_PIPE": str(for_worker)}
        try:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                self._command, env=environment, start_new_session=True, pass_fds=(for_worker,)
            )
        finally:
            os.close(for_worker)
        self.pid = self._process.pid
        log.info("worker started", worker=self.name, pid=self.pid)

    def _note_end(self, code: int) -> bool:
        """Plan the next start of a worker that ended with ``code``; return whether there is none."""
        self.kill()
        self.last_code = code
        ended_at = time.monotonic()
        pause_s = self._restarts.plan_next(code, started_s=self._started_at, ended_s=ended_at)
        log.warning("worker ended", worker=self.name, exit_code=code, meaning=name_code(code), again_in_s=pause_s)
        if pause_s is None:
            self.gave_up = describe_giving_up(code, self._most_restarts)
            log.error("worker given up", worker=self.name, reason=self.gave_up)
            return True
        self._start_at = ended_at + pause_s
        return False


class Launcher:
    """Keeps every assignment's worker running until told to stop.

    SIGTERM, Ctrl+C, SIGHUP (its terminal was closed) and SIGUSR1 (a batch system's time is nearly over) drain.  SIGQUIT, or a
    second SIGTERM or Ctrl+C, kills: journals stay, and the leases run out.
    """

    def __init__(self, assignments: Sequence[Assignment], settings: Settings) -> None:
        self._settings = settings
        self._workers = [WorkerProcess(assignment, settings, workers=len(assignments)) for assignment in assignments]
        self._notices: list[threading.Thread] = []
        self._draining = False
        self._killing = False

    def run(self) -> int:
        """Supervise until stopped, and return the exit code.

        0 after a drain, 130 when killed, 2 when every worker was given up because it cannot start, 1 when some were because
        they died too often.
        """
        for number in (*DRAINING, signal.SIGQUIT):
            # Under nohup SIGHUP is ignored, and is to stay so.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._take_signal)
        while not (self._draining or self._is_hopeless()):
            for worker in self._workers:
                if worker.watch(may_start=not self._is_crowded(worker)):
                    self._tell_given_up(worker)
            time.sleep(_POLL_S)
        if self._draining:
            return self._drain()
        return USER_MUST_ACT if all(worker.last_code == CANNOT_START for worker in self._workers) else NOT_ALL_OK

    def _take_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        # systemd may send SIGHUP right after SIGTERM: that is no second demand.
        self._killing = number == signal.SIGQUIT or (self._draining and number in (signal.SIGTERM, signal.SIGINT)) or self._killing
        self._draining = True

    def _is_crowded(self, worker: WorkerProcess) -> bool:
        """Return whether another worker is loading on the same GPU: an engine takes what is free while it loads for its own."""
        return any(one.loading for one in self._workers if one.devices and one.devices == worker.devices and one is not worker)

    def _is_hopeless(self) -> bool:
        """Return whether every worker was given up, and everybody told."""
        return all(worker.gave_up for worker in self._workers) and not any(notice.is_alive() for notice in self._notices)

    def _tell_given_up(self, worker: WorkerProcess) -> None:
        """Write the notice from a thread: a Redis that does not answer must not keep the launcher from the others, or signals."""
        notice = WorkerRecord(
            worker=worker.name, model=worker.model, device=worker.device, pid=worker.pid, state="stopped", trouble=worker.gave_up
        )
        mates = [one for one in self._workers if one.model == worker.model]
        ours = [one.name for one in mates] if all(one.gave_up for one in mates) else None
        telling = threading.Thread(target=tell_given_up, args=(self._settings, notice), kwargs={"ours": ours}, daemon=True)
        telling.start()
        self._notices.append(telling)

    def _drain(self) -> int:
        log.info("draining; once more to kill", grace_s=self._settings.drain_grace_s)
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        deadline = time.monotonic() + self._settings.drain_grace_s + _KILL_AFTER_S
        while not all([worker.reap() for worker in self._workers]):  # noqa: C419  # every one is to be reaped
            if self._killing or time.monotonic() > deadline:
                log.warning("killing what still runs; its journals stay, and its leases run out", asked=self._killing)
                for worker in self._workers:
                    worker.kill()
                return INTERRUPTED
            time.sleep(_POLL_S)
        return 0


def count_threads(slot: GpuSlot, workers: int) -> int:
    """Return how many threads each library of a worker may compute with, if the user says nothing: its share of the cores.

    By default every worker takes all cores, and their threads mostly wait for each other.  Beside a GPU there is little to
    compute on the CPU.
    """
    share = max(1, len(os.sched_getaffinity(0)) // workers)
    return min(share, _MOST_THREADS_BESIDE_GPU) if slot.devices else share
