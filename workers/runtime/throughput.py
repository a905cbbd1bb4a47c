"""The throughput of one worker: samples/s and tokens/s of the outcomes that it has computed itself."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from common.records import Outcome

_WINDOW_S = 30.0
_SHORTEST_S = 1.0  # a few samples that finish within milliseconds do not give a meaningful rate


class Rate(NamedTuple):
    """Samples/s, and the tokens/s of their answers."""

    samples_per_s: float
    tokens_per_s: float


class Throughput:
    """Counts outcomes and measures the rate of the last 30 s. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, int, int]] = deque()  # time in seconds, samples, tokens
        self._since_s: float | None = None

    def count(self, outcomes: Sequence[Outcome]) -> None:
        """Add outcomes that this worker has just computed, including failed outcomes, but not outcomes of a journal or part."""
        if not outcomes:
            return
        tokens = sum(outcome.counted_tokens for outcome in outcomes)
        with self._lock:
            now_s = self._drop_old()
            if not self._recent:  # after the start or a pause: measure from the start of these samples
                self._since_s = now_s - max(map(_measure_time, outcomes))
            self._recent.append((now_s, len(outcomes), tokens))

    def measure(self) -> Rate | None:
        """Return the rate over the last 30 s, or since the first outcome if that is later; ``None`` before the first outcome."""
        with self._lock:
            now_s = self._drop_old()
            if self._since_s is None:
                return None
            span_s = max(min(now_s - self._since_s, _WINDOW_S), _SHORTEST_S)
            samples = sum(count for _, count, _ in self._recent)
            return Rate(samples / span_s, sum(tokens for _, _, tokens in self._recent) / span_s)

    def _drop_old(self) -> float:
        """Drop entries older than the window. Return the current time."""
        now_s = self._clock()
        while self._recent and self._recent[0][0] <= now_s - _WINDOW_S:
            self._recent.popleft()
        return now_s


def _measure_time(outcome: Outcome) -> float:
    """Return a sample's duration in seconds, or 0 if the system clock was set back."""
    return max(0.0, (outcome.finished_at or 0.0) - (outcome.started_at or 0.0))
