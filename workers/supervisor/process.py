"""One supervised worker process: its command and environment, its start, its end and its next start."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

import structlog

from common.broker.queues import queue_name
from common.digests import name_node
from common.exit_codes import NOT_STARTED
from common.settings import Settings
from workers.supervisor.placement import Assignment, GpuSlot
from workers.supervisor.restart_policy import RestartPolicy, describe_giving_up, name_code

log = structlog.get_logger()

_MOST_THREADS_BESIDE_GPU = 4


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


def count_threads(slot: GpuSlot, workers: int) -> int:
    """Return how many threads each library of a worker may compute with, if the user says nothing: its share of the cores.

    By default every worker takes all cores, and their threads mostly wait for each other.  Beside a GPU there is little to
    compute on the CPU.
    """
    share = max(1, len(os.sched_getaffinity(0)) // workers)
    return min(share, _MOST_THREADS_BESIDE_GPU) if slot.devices else share
