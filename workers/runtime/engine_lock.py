"""Whose turn the engine has: chunks share it, but one that has taken an engine down has it alone."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.errors import EngineError
from common.records import Lease

_POLL_S = 0.1


class EngineLock:
    """Any number of chunks together, or one suspect alone; a suspect that waits goes before those that come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asking: dict[str, Lease] = {}
        self._suspects_waiting = 0

    def is_asking(self, lease: Lease) -> bool:
        """Return whether a chunk has its turn, so that it may be to blame if the engine dies now."""
        return lease.token in self._asking

    @contextmanager
    def take(self, lease: Lease, until: Callable[[], bool]) -> Iterator[None]:
        """Wait for a turn and keep it for as long as the block runs; the wait ends, turn or not, once ``until()`` holds.

        Whoever learns that the engine died keeps the turn: this process ends, and all that have one may be to blame.
        """
        wait = self._wait_alone if lease.suspect else self._wait_together
        with self._changed:
            wait(until)
            self._asking[lease.token] = lease
        try:
            yield
        except EngineError:
            raise
        except BaseException:
            self._end(lease)
            raise
        self._end(lease)

    def _end(self, lease: Lease) -> None:
        with self._changed:
            del self._asking[lease.token]
            self._changed.notify_all()

    def _wait_together(self, until: Callable[[], bool]) -> None:
        while (self._suspects_waiting or any(lease.suspect for lease in self._asking.values())) and not until():
            self._changed.wait(_POLL_S)

    def _wait_alone(self, until: Callable[[], bool]) -> None:
        self._suspects_waiting += 1
        try:
            while self._asking and not until():
                self._changed.wait(_POLL_S)
        finally:
            self._suspects_waiting -= 1
