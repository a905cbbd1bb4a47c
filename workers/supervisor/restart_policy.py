"""When a worker that ended starts again, and who is told once it does not.

Every end counts that the launcher did not ask for, an orderly one (exit code 0: somebody signalled the worker itself) too:
whatever ends twenty times in an hour gets nowhere.  Only waiting for a service does not count, however long it takes.
"""

import os
import signal
from collections import deque
from collections.abc import Collection

import redis
import structlog

from common.digests import name_node
from common.errors import FleetError
from common.ledger.ledger import Ledger, connect_redis
from common.ledger.worker_registry import WorkerRecord, announce_worker, list_workers, withdraw_worker
from common.settings import Settings
from workers.runtime.worker import CANNOT_START, ENGINE_DIED

log = structlog.get_logger()

# Exit codes besides those of ``slot.py``: Redis or the store did not answer at the start; there was no process at all.
SERVICE_AWAY = 3
NOT_STARTED = os.EX_OSERR

_BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_HEALTHY_AFTER_S = 60.0
_WINDOW_S = 3600.0
_NOTICE_S = 86400.0
_PATIENCE_S = 60  # nobody waits for a notice; a Redis that is being restarted is waited for

_MEANINGS = {
    0: "ended by itself",
    CANNOT_START: "cannot start",
    SERVICE_AWAY: "Redis or the store does not answer",
    ENGINE_DIED: "engine died",
    NOT_STARTED: "the system could not start a process",
    -signal.SIGKILL: "killed by SIGKILL, perhaps by the system because memory ran out",
    -signal.SIGSEGV: "crashed in native code, SIGSEGV",
    -signal.SIGBUS: "crashed in native code, SIGBUS",
    -signal.SIGABRT: "aborted by native code, SIGABRT",
}


class RestartPolicy:
    """One slot's budget: at most ``most`` new starts in any hour, after pauses that grow.  Times are monotonic seconds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._restarted_s: deque[float] = deque()
        self._failures = 0

    def plan_next(self, code: int, *, started_s: float, ended_s: float) -> float | None:
        """Return after which pause a worker that ended with ``code`` starts again, or ``None`` if it does not."""
        if code == CANNOT_START:
            return None
        while self._restarted_s and self._restarted_s[0] <= ended_s - _WINDOW_S:
            self._restarted_s.popleft()
        if code != SERVICE_AWAY:
            if len(self._restarted_s) >= self._most:
                return None
            self._restarted_s.append(ended_s)
        self._failures = 1 if ended_s - started_s > _HEALTHY_AFTER_S else self._failures + 1
        return _BACKOFF_S[min(self._failures, len(_BACKOFF_S)) - 1]


def name_code(code: int) -> str:
    """Return what an exit code means; negative ones are signals, as ``subprocess`` has them."""
    return _MEANINGS.get(code) or (f"killed by {_name_signal(-code)}" if code < 0 else "unexpected")


def describe_giving_up(code: int, most: int) -> str:
    """Return why a slot has no worker any more, for a person."""
    if code == CANNOT_START:
        return "cannot start"
    tried = (
        f"gave up after {most} restart{'' if most == 1 else 's'} in an hour" if most else "not started again (FLEET_MAX_RESTARTS=0)"
    )
    return f"{tried}; last exit code {code} ({name_code(code)})"


def tell_given_up(settings: Settings, notice: WorkerRecord, *, ours: Collection[str] | None) -> None:
    """Let ``producer status`` show for a day why a slot has no worker; never raises.

    ``ours`` names the launcher's workers once all of them have been given up: then, if nobody else's worker of the model is
    there, its open runs are paused with the reason, so that whoever watches them is not left waiting.  What the worker itself
    said last is added to the notice.
    """
    try:
        with connect_redis(settings, patience_s=_PATIENCE_S) as client:
            there = list_workers(client, notice.model)
            notice = _add_last_words(notice, there)
            announce_worker(client, notice, ttl_s=_NOTICE_S)
            if ours is not None and not any(one.state != "stopped" and one.worker not in ours for one in there):
                _pause_runs(Ledger(client, settings), notice)
    except (FleetError, redis.RedisError) as error:
        log.warning(
            "could not tell in Redis that a worker was given up", worker=notice.worker, trouble=notice.trouble, error=str(error)
        )


def withdraw_notices(client: redis.Redis, model: str, devices: Collection[str]) -> None:
    """Forget what earlier launchers of this machine told about the GPUs of the slots that are started now.

    They may have been grouped or shared in another way.  A slot without a GPU is named for its launcher's process, so any such
    slot of the machine and model stands for it.
    """
    taken = {place for device in devices for place in find_places(device)}
    for presence in list_workers(client, model):
        is_here = presence.worker.endswith(f"@{name_node()}")
        if presence.state == "stopped" and is_here and taken & find_places(presence.device):
            withdraw_worker(client, presence.worker)


def find_places(device: str) -> set[str]:
    """Return what a slot's name says of where it runs: for ``gpu1+2.1`` the GPUs 1 and 2, without a GPU the CPU."""
    return {"cpu"} if device.startswith("cpu") else set(device.removeprefix("gpu").partition(".")[0].split("+"))


def _add_last_words(notice: WorkerRecord, there: list[WorkerRecord]) -> WorkerRecord:
    said = next((one.trouble for one in there if (one.worker, one.pid) == (notice.worker, notice.pid)), None)
    trouble = f"{notice.trouble}: {said or 'its log says why'}"
    return notice.model_copy(update={"trouble": trouble})


def _pause_runs(ledger: Ledger, notice: WorkerRecord) -> None:
    for run_id in ledger.list_runs(notice.model):
        reason = (
            f"no worker of {notice.model} is left: {notice.worker} {notice.trouble}. Mend that, start workers, "
            f"then: producer resume {run_id}"
        )
        if ledger.pause_run(run_id, reason):
            log.warning("run paused", run_id=run_id, reason=reason)


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
