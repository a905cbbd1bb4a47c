"""The node launcher: one supervised Celery worker process for each assignment, of one model or several.

Each worker leads its own session, so that Ctrl+C in the terminal reaches the launcher alone, and so that killing the
worker's process group also ends an engine's child processes, which would otherwise keep the GPU's memory.
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
_KILL_AFTER_S = 15.0  # on top of the drain's grace


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
        return USER_MUST_ACT if all(worker.last_code == USER_MUST_ACT for worker in self._workers) else NOT_ALL_OK

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
        # Imported here: a launcher needs Redis only for notices, and starts without it.
        from common.ledger.worker_registry import WorkerRecord
        from workers.supervisor.notices import tell_given_up

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
