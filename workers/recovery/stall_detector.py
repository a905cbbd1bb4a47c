"""Detect an engine that does not answer its pending requests."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StallDetector:
    """Measures the time since the last answer. The engine's loop updates this time, and the heartbeat thread reads it."""

    def __init__(self) -> None:
        self._pending = 0
        self._since_s = 0.0

    @contextmanager
    def track_request(self) -> Iterator[None]:
        """Count one request as pending while the block runs.

        The time restarts at the end of every request, and at the start of a request if other requests are not pending.
        """
        if not self._pending:
            self._since_s = time.monotonic()
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1
            self._since_s = time.monotonic()

    @property
    def stalled_s(self) -> float:
        """Seconds since the last answer, or 0 without pending requests."""
        return time.monotonic() - self._since_s if self._pending else 0.0
