"""Classify how a worker or its engine ended. Some causes are attributed to the samples in flight."""

import signal
from enum import StrEnum
from pathlib import Path

# Signals that a fault in native code sends to its own process. Only other processes send the remaining signals.
_CRASH_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
)


class DeathCause(StrEnum):
    """Why an engine ended while it had samples in flight. ``ledger.lua`` compares these words."""

    CRASH = "crash"  # the engine ended itself: a crash signal, an exit, an unrecoverable error
    STALL = "stall"  # the engine had requests and did not answer any of them
    OUT_OF_MEMORY = "out_of_memory"  # the system killed the engine because memory ran out; other processes may share the memory
    KILL = "kill"  # another process ended the engine, or the reason is unknown: SIGKILL, SIGTERM, a lost node, an expired lease

    @property
    def is_attributed(self) -> bool:
        """Return whether the death of an engine with one sample in flight is attributed to that sample."""
        return self in (DeathCause.CRASH, DeathCause.STALL)


def classify_exit(code: int | None, *, out_of_memory: bool) -> DeathCause:
    """Return why a process ended.

    ``code`` is the return code as in ``subprocess``: negative for a signal, ``None`` if unknown. ``out_of_memory`` states
    whether the out-of-memory killer was active in the cgroup of the process while the process ran.
    """
    if code is not None and -code in _CRASH_SIGNALS:
        return DeathCause.CRASH
    if out_of_memory:
        return DeathCause.OUT_OF_MEMORY
    return DeathCause.KILL if code is None or code < 0 else DeathCause.CRASH


def count_oom_kills(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Return how many processes the out-of-memory killer has ended in this process's cgroup, or 0 without a counter.

    All workers of a node may share the cgroup. Source: the kernel's documentation of cgroup v2 (``memory.events``) and of
    cgroup v1 (``memory.oom_control``).
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            counters = root / path.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            counters = root / "memory" / path.lstrip("/") / "memory.oom_control"
        else:
            continue
        try:
            counted = dict(entry.split() for entry in counters.read_text().splitlines())
        except (OSError, ValueError):
            continue
        if "oom_kill" in counted:
            return int(counted["oom_kill"])
    return 0
