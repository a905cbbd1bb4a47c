"""Limit the samples that a worker takes: enough to keep its engine busy, but not more, so that other workers get a share."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_POLL_S = 0.1


class Permit:
    """Counts the samples of one admitted chunk that still wait for an outcome."""

    def __init__(self, gate: "AdmissionGate", samples: int) -> None:
        self._gate = gate
        self._samples = samples

    def release(self, samples: int) -> None:
        """Record that ``samples`` of the chunk's samples have an outcome."""
        self._samples -= samples
        self._gate.make_room(samples)

    def release_all(self) -> None:
        self.release(self._samples)


class AdmissionGate:
    """Admits another chunk while fewer than ``enough`` samples of this worker wait for an outcome.

    The gate counts samples, not chunks. With a limit on chunks, a few chunks that wait for their longest answers would leave an
    engine with continuous batching half empty. A chunk passes the gate before it is leased, so another
    worker can take a chunk that does not fit here. The gate does not admit chunks while ``is_closed()`` is true.
    """

    def __init__(self, enough: int, is_closed: Callable[[], bool] = lambda: False) -> None:
        self._enough = enough
        self._is_closed = is_closed
        self._waiting = 0
        self._changed = threading.Condition()

    @contextmanager
    def admit(self, samples: int, until: Callable[[], bool]) -> Iterator[Permit]:
        """Block until there is room or ``until()`` is true, then count ``samples`` as waiting while the block runs."""
        with self._changed:
            while (self._waiting >= self._enough or self._is_closed()) and not until():
                self._changed.wait(_POLL_S)
            self._waiting += samples
        permit = Permit(self, samples)
        try:
            yield permit
        finally:
            permit.release_all()

    def make_room(self, samples: int) -> None:
        with self._changed:
            self._waiting -= samples
            self._changed.notify_all()
