"""How long the engine has been silent: asked something, and answering nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StallDetector:
    """Begins with a question, and begins anew with every answer.  Written by the engine's loop, read by the heartbeat."""

    def __init__(self) -> None:
        self._open = 0
        self._since = 0.0

    @contextmanager
    def broken_by_answer(self) -> Iterator[None]:
        """Count one question as open for as long as the block runs."""
        if not self._open:
            self._since = time.monotonic()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._since = time.monotonic()

    @property
    def length_s(self) -> float:
        """Return how long nothing has been answered; 0 while nothing is asked."""
        return time.monotonic() - self._since if self._open else 0.0
