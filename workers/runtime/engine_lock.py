"""The shared and exclusive lock on the engine: chunks share it, a quarantined chunk holds it exclusively."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.errors import EngineError
from common.records import Lease, Standing

_POLL_S = 0.1


class EngineLock:
    """Held by any number of chunks together, or by one quarantined chunk alone. It has priority over later chunks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holding: dict[str, Lease] = {}
        self._quarantined_waiting = 0

    @property
    def is_reserved(self) -> bool:
        """Whether a quarantined chunk holds the lock or waits for it. Other chunks then cannot start."""
        return bool(self._quarantined_waiting) or any(map(_is_quarantined, list(self._holding.values())))

    def is_held_by(self, lease: Lease) -> bool:
        """Return whether a chunk holds the lock. It may then be the cause of an engine death."""
        return lease.token in self._holding

    @contextmanager
    def acquire(self, lease: Lease, until: Callable[[], bool]) -> Iterator[None]:
        """Hold the lock while the block runs. The wait ends once ``until()`` is true, even if other chunks hold the lock.

        A chunk whose block ends with ``EngineError`` keeps the lock, because this process ends and the death counts against every
        chunk that holds the lock.
        """
        wait = self._wait_exclusive if _is_quarantined(lease) else self._wait_shared
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
        while self.is_reserved and not until():
            self._changed.wait(_POLL_S)

    def _wait_exclusive(self, until: Callable[[], bool]) -> None:
        self._quarantined_waiting += 1
        try:
            while self._holding and not until():
                self._changed.wait(_POLL_S)
        finally:
            self._quarantined_waiting -= 1


def _is_quarantined(lease: Lease) -> bool:
    return lease.standing == Standing.QUARANTINED
