"""How much a worker takes in: enough that its engine never waits, and no more, so that other workers get their share."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_POLL_S = 0.1


class Permit:
    """A chunk's place in the intake: so many of its samples still wait for an answer."""

    def __init__(self, intake: "AdmissionGate", samples: int) -> None:
        self._intake = intake
        self._samples = samples

    def leave(self, samples: int) -> None:
        """Take note that so many of the chunk's samples have their outcome."""
        self._samples -= samples
        self._intake.make_room(samples)

    def leave_all(self) -> None:
        self.leave(self._samples)


class AdmissionGate:
    """Lets another chunk begin while fewer than ``enough`` samples of this worker wait for an answer.

    Counted in samples, not in chunks: the last, long answers of a few chunks would leave a continuously batching engine half
    empty.  Asked before a chunk is leased: what this worker does not begin, another one may.
    """

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._waiting = 0
        self._changed = threading.Condition()

    @contextmanager
    def admit(self, samples: int, until: Callable[[], bool]) -> Iterator[Permit]:
        """Wait for room, or until ``until()`` holds, and keep a place for ``samples`` for as long as the block runs."""
        with self._changed:
            while self._waiting >= self._enough and not until():
                self._changed.wait(_POLL_S)
            self._waiting += samples
        place = Permit(self, samples)
        try:
            yield place
        finally:
            place.leave_all()

    def make_room(self, samples: int) -> None:
        with self._changed:
            self._waiting -= samples
            self._changed.notify_all()
