"""The restart policy decides when a worker that exited is started again.

Every exit that the launcher did not request counts, including exit code 0 after a signal to the worker. A worker that exits
twenty times in an hour does not make progress. An exit because a service does not answer does not count, regardless of the
length of the outage.

A worker that cannot start with its configuration is given up, unless it has already run with this configuration. In that case,
a file that the configuration names is temporarily missing, such as weights on a disk that is not mounted. Such an exit does not
count either.
"""

import signal
from collections import deque

from common.exit_codes import ENGINE_DIED, ENGINE_KILLED, NOT_STARTED, UNREACHABLE, USER_MUST_ACT

_BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_HEALTHY_AFTER_S = 60.0
_WINDOW_S = 3600.0
_RESTARTS_DISABLED = "not started again (FLEET_MAX_RESTARTS=0)"

_MEANINGS = {
    0: "ended by itself",
    USER_MUST_ACT: "cannot start",
    UNREACHABLE: "Redis or the store does not answer",
    ENGINE_DIED: "engine died",
    ENGINE_KILLED: "another process ended the engine, or the engine ended while the worker drained",
    NOT_STARTED: "the system could not start a process",
    -signal.SIGKILL: "killed by SIGKILL, perhaps by the system because memory ran out",
    -signal.SIGSEGV: "crashed in native code, SIGSEGV",
    -signal.SIGBUS: "crashed in native code, SIGBUS",
    -signal.SIGABRT: "aborted by native code, SIGABRT",
}


class RestartPolicy:
    """The restart budget of one slot: at most ``max_restarts`` in any hour, with backoff. Times are monotonic seconds."""

    def __init__(self, max_restarts: int) -> None:
        self._max_restarts = max_restarts
        self._restarted_s: deque[float] = deque()
        self._failures = 0
        self._has_run = False

    def plan_next(self, code: int, *, started_s: float, ended_s: float) -> float | None:
        """Return the pause in seconds before the restart of a worker that exited with ``code``, or ``None`` to give it up.

        The backoff restarts after a worker has run for longer than a minute.
        """
        if code == USER_MUST_ACT and not self._has_run:
            return None
        is_healthy = ended_s - started_s > _HEALTHY_AFTER_S
        self._has_run |= is_healthy and code != USER_MUST_ACT
        while self._restarted_s and self._restarted_s[0] <= ended_s - _WINDOW_S:
            self._restarted_s.popleft()
        if code not in (UNREACHABLE, USER_MUST_ACT):
            if len(self._restarted_s) >= self._max_restarts:
                return None
            self._restarted_s.append(ended_s)
        self._failures = 1 if is_healthy else self._failures + 1
        return _BACKOFF_S[min(self._failures, len(_BACKOFF_S)) - 1]


def name_code(code: int) -> str:
    """Return the meaning of an exit code. A negative code is the number of a signal, as in ``subprocess``."""
    return _MEANINGS.get(code) or (f"killed by {_name_signal(-code)}" if code < 0 else "unexpected")


def describe_giving_up(code: int, max_restarts: int) -> str:
    """Return the reason why the worker of a slot is not started again, as text for the user."""
    if code == USER_MUST_ACT:
        return "cannot start"
    plural = "" if max_restarts == 1 else "s"
    reason = f"gave up after {max_restarts} restart{plural} in an hour" if max_restarts else _RESTARTS_DISABLED
    return f"{reason}; last exit code {code} ({name_code(code)})"


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
