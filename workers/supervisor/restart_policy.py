"""When a worker that ended starts again.

Every end counts that the launcher did not ask for, an orderly one (exit code 0: the worker itself was signalled) too: a
worker that ends twenty times in an hour makes no progress.  Only waiting for a service does not count, however long it takes.
"""

import signal
from collections import deque

from common.exit_codes import ENGINE_DIED, NOT_STARTED, UNREACHABLE, USER_MUST_ACT

_BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_HEALTHY_AFTER_S = 60.0
_WINDOW_S = 3600.0

_MEANINGS = {
    0: "ended by itself",
    USER_MUST_ACT: "cannot start",
    UNREACHABLE: "Redis or the store does not answer",
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
        if code == USER_MUST_ACT:
            return None
        while self._restarted_s and self._restarted_s[0] <= ended_s - _WINDOW_S:
            self._restarted_s.popleft()
        if code != UNREACHABLE:
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
    if code == USER_MUST_ACT:
        return "cannot start"
    tried = (
        f"gave up after {most} restart{'' if most == 1 else 's'} in an hour" if most else "not started again (FLEET_MAX_RESTARTS=0)"
    )
    return f"{tried}; last exit code {code} ({name_code(code)})"


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
