"""The shared and exclusive lock on the engine: chunks share it, a suspect (one that has killed an engine) runs alone."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.errors import EngineError
from common.records import Lease

_POLL_S = 0.1


class EngineLock:
    """Hold any number of chunks together, or one suspect alone.  A waiting suspect goes before chunks that come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holding: dict[str, Lease] = {}
        self._suspects_waiting = 0

    def is_held_by(self, lease: Lease) -> bool:
        """Return whether a chunk holds the lock, so that it may be the cause if the engine dies now."""
        return lease.token in self._holding

    @contextmanager
    def acquire(self, lease: Lease, until: Callable[[], bool]) -> Iterator[None]:
        """Hold the lock while the block runs.  The wait ends, with or without the lock, once ``until()`` holds.

        A chunk whose block ends with ``EngineError`` keeps the lock: this process ends, and every chunk that holds the lock
        is a suspect.
        """
        wait = self._wait_exclusive if lease.suspect else self._wait_shared
        with self._changed:
            wait(until)
            self._holding[lease.token] = lease
        try:
            yield
        except EngineError:
            raise
        except BaseException:
            self._release(lease)
            raise
        self._release(lease)

    def _release(self, lease: Lease) -> None:
        with self._changed:
            del self._holding[lease.token]
            self._changed.notify_all()

    def _wait_shared(self, until: Callable[[], bool]) -> None:
        while (self._suspects_waiting or any(lease.suspect for lease in self._holding.values())) and not until():
            self._changed.wait(_POLL_S)

    def _wait_exclusive(self, until: Callable[[], bool]) -> None:
        self._suspects_waiting += 1
        try:
            while self._holding and not until():
                self._changed.wait(_POLL_S)
        finally:
            self._suspects_waiting -= 1
