"""One supervised worker process: its command, its environment, its start, its exit and its restart."""

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
from common.deaths import DeathCause, classify_exit, count_oom_kills
from common.digests import name_node
from common.exit_codes import ENGINE_KILLED, NOT_STARTED
from common.settings import Settings
from workers.supervisor.placement import Assignment, GpuSlot
from workers.supervisor.restart_policy import RestartPolicy, describe_giving_up, name_code

log = structlog.get_logger()

_MAX_THREADS_WITH_GPU = 4


class WorkerProcess:
    """The worker process of one slot. It is restarted until its restart budget is used up.

    ``gave_up`` is the reason why it is not started again, as text for the user, or ``None`` while it may start. ``pid``,
    ``last_code`` and ``death`` describe the last process. ``workers`` is the number of workers on this machine, which share its
    CPU cores.
    """

    def __init__(self, assignment: Assignment, settings: Settings, *, workers: int = 1) -> None:
        slot = assignment.slot
        self.name = f"{slot.name}@{name_node()}"
        self.device = slot.name
        self.devices = slot.devices
        self.model = assignment.model
        self.pid = 0
        self.last_code = 0
        self.death = DeathCause.KILL
        self.gave_up: str | None = None
        self._command = [
            *(sys.executable, "-m", "celery", "-q", "-A", "workers.app", "worker", "-P", "threads"),
            *("-c", str(settings.chunks_in_flight), "-Q", queue_name(self.model), "-n", self.name),
            *("--without-gossip", "--without-mingle", "-l", settings.log_level),
        ]
        self._environment = {
            "OMP_NUM_THREADS": str(count_threads(slot, workers)),
            **os.environ,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # makes CUDA's indexes equal to NVML's
            "CUDA_VISIBLE_DEVICES": slot.devices,
            "FLEET_WORKER_PROFILE": assignment.profile,
            "FLEET_WORKER_DEVICE": slot.name,
            "FLEET_WORKER_GPU": slot.gpu,
            "FLEET_WORKER_LAUNCHER": str(os.getpid()),
            "FLEET_WORKER_PRESET": json.dumps(assignment.preset.options),
        }
        self._max_restarts = settings.max_restarts
        self._restarts = RestartPolicy(settings.max_restarts)
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded_pipe: int | None = None
        self._oom_kills = 0
        self._started_at = 0.0
        self._start_at = 0.0

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def loading(self) -> bool:
        """Whether the process runs and has not reported yet that its engine is loaded."""
        return self._loaded_pipe is not None and not select.select([self._loaded_pipe], [], [], 0)[0]

    def watch(self, *, may_start: bool = True) -> bool:
        """Start the process if its start is due and ``may_start``, or handle its exit.

        Return whether the process has exited, or could not be started.
        """
        if self._process is not None:
            if (code := self._process.poll()) is None:
                return False
            self._handle_exit(code)
            return True
        if self.gave_up or not may_start or time.monotonic() < self._start_at:
            return False
        try:
            self._start()
        except OSError as error:
            log.warning("worker.spawn_failed", worker=self.name, error=str(error))
            self._handle_exit(NOT_STARTED)
            return True
        return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the worker process, and not to its children."""
        if self._process is not None:
            self._process.send_signal(number)

    def reap(self) -> bool:
        """Return whether the process has exited. If it has, kill the rest of its process group first."""
        if self._process is not None and self._process.poll() is not None:
            self.kill()
        return self._process is None

    def kill(self) -> None:
        """Kill the worker and all processes that it started, with SIGKILL to its process group."""
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
        self._oom_kills = count_oom_kills()
        self._loaded_pipe, write_end = os.pipe()
        environment = {**self._environment, "FLEET_WORKER_LOADED_PIPE": str(write_end)}
        try:
            self._process = subprocess.Popen(  # noqa: S603  # the command is built by this module
                self._command, env=environment, start_new_session=True, pass_fds=(write_end,)
            )
        finally:
            os.close(write_end)
        self.pid = self._process.pid
        log.info("worker.started", worker=self.name, pid=self.pid)

    def _handle_exit(self, code: int) -> None:
        """Schedule the restart of a worker that exited with ``code``, or give it up."""
        self.kill()
        self.last_code = code
        self.death = classify_exit(None if code == ENGINE_KILLED else code, out_of_memory=count_oom_kills() > self._oom_kills)
        ended_at = time.monotonic()
        pause_s = self._restarts.plan_next(code, started_s=self._started_at, ended_s=ended_at)
        log.warning(
            "worker.exited", worker=self.name, exit_code=code, meaning=name_code(code), cause=self.death, restart_in_s=pause_s
        )
        if pause_s is None:
            self.gave_up = describe_giving_up(code, self._max_restarts)
            log.error("worker.gave_up", worker=self.name, reason=self.gave_up)
            return
        self._start_at = ended_at + pause_s


def count_threads(slot: GpuSlot, workers: int) -> int:
    """Return the default ``OMP_NUM_THREADS`` of a worker: its share of the CPU cores, and at most four with a GPU.

    Without this limit every worker would use all cores, and their threads would mostly wait for each other. A worker with a
    GPU computes little on the CPU.
    """
    share = max(1, len(os.sched_getaffinity(0)) // workers)
    return min(share, _MAX_THREADS_WITH_GPU) if slot.devices else share
