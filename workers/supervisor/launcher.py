"""The node launcher: it supervises one Celery worker process for each assignment, of one model or several.

Each worker leads its own session, for two reasons. Ctrl+C in the terminal then reaches only the launcher. Killing the
worker's process group then also kills the child processes of its engine, which would otherwise keep the GPU memory.
"""

import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType

import structlog

from common.exit_codes import INTERRUPTED, NOT_ALL_OK, USER_MUST_ACT
from common.settings import Settings
from workers.supervisor.placement import Assignment
from workers.supervisor.process import WorkerProcess
from workers.supervisor.signals import DRAINING

log = structlog.get_logger()

_POLL_S = 0.2
_KILL_AFTER_S = 15.0  # in addition to drain_grace_s
_KILL_HINT = "a second signal kills the workers"
_LEASE_HINT = "the journals are kept; the leases expire and other workers take the chunks over"


class Launcher:
    """Keeps the worker of every assignment running until a signal stops it.

    SIGTERM, Ctrl+C, SIGHUP (the terminal was closed) and SIGUSR1 (a batch system announces the time limit) drain the workers.
    SIGQUIT, or a second SIGTERM or Ctrl+C, kills them: their journals are kept, and their leases expire.
    """

    def __init__(self, assignments: Sequence[Assignment], settings: Settings) -> None:
        self._settings = settings
        self._workers = [WorkerProcess(assignment, settings, workers=len(assignments)) for assignment in assignments]
        self._reports: list[threading.Thread] = []
        self._draining = False
        self._killing = False

    def run(self) -> int:
        """Supervise the workers until a signal arrives or all are given up, and return the exit code.

        The code is 0 after a drain, 130 after a kill, 2 if every worker was given up because it cannot start, and 1 if every
        worker was given up and at least one died too often.
        """
        for number in (*DRAINING, signal.SIGQUIT):
            # nohup ignores SIGHUP; keep it ignored.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle_signal)
        while not (self._draining or self._all_gave_up()):
            for worker in self._workers:
                if worker.watch(may_start=not self._is_gpu_loading(worker)):
                    self._report_exit(worker)
            time.sleep(_POLL_S)
        if self._draining:
            return self._drain()
        return USER_MUST_ACT if all(worker.last_code == USER_MUST_ACT for worker in self._workers) else NOT_ALL_OK

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        # systemd may send SIGHUP right after SIGTERM: this must not count as a second request.
        self._killing = number == signal.SIGQUIT or (self._draining and number in (signal.SIGTERM, signal.SIGINT)) or self._killing
        self._draining = True

    def _is_gpu_loading(self, worker: WorkerProcess) -> bool:
        """Return whether another worker is loading on the same GPU.

        While an engine loads, it treats all free memory as its own, so two engines must not load on one GPU together.
        """
        return any(one.loading for one in self._workers if one.devices and one.devices == worker.devices and one is not worker)

    def _all_gave_up(self) -> bool:
        """Return whether every worker was given up and every report has been written or has failed."""
        return all(worker.gave_up for worker in self._workers) and not any(report.is_alive() for report in self._reports)

    def _report_exit(self, worker: WorkerProcess) -> None:
        """Report an exit in a thread: a Redis that does not answer must not block the other workers or the signals."""
        # Imported here: a launcher needs Redis only for reports, and starts without it.
        from common.ledger.worker_registry import WorkerRecord
        from workers.supervisor.notices import report_exit

        record = WorkerRecord(
            worker=worker.name, model=worker.model, device=worker.device, pid=worker.pid, state="stopped", trouble=worker.gave_up
        )
        same_model = [one for one in self._workers if one.model == worker.model]
        gave_up = [one.name for one in same_model] if all(one.gave_up for one in same_model) else None
        arguments = (self._settings, record, worker.death)
        thread = threading.Thread(target=report_exit, args=arguments, kwargs={"gave_up": gave_up}, daemon=True)
        thread.start()
        self._reports = [*filter(threading.Thread.is_alive, self._reports), thread]

    def _drain(self) -> int:
        log.info("launcher.draining", grace_s=self._settings.drain_grace_s, hint=_KILL_HINT)
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        deadline = time.monotonic() + self._settings.drain_grace_s + _KILL_AFTER_S
        while not all([worker.reap() for worker in self._workers]):  # noqa: C419  # the list reaps every worker
            if self._killing or time.monotonic() > deadline:
                log.warning("launcher.killing", requested=self._killing, hint=_LEASE_HINT)
                for worker in self._workers:
                    worker.kill()
                return INTERRUPTED
            time.sleep(_POLL_S)
        return 0
