"""The pacing of requests and retries: rate limit, pauses that the endpoint requests, backoff and patience."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from common.errors import TransientError

MAX_ERROR_WEIGHT = 5  # from this weight on, the errors of a request count as its own fault

_LATE_LIMIT_WEIGHT = 2  # weight of a rate limit or an overload once a request has used up its patience
_FIRST_BACKOFF_S = 1.0
_MAX_BACKOFF_S = 30.0


@dataclass(frozen=True, slots=True)
class Clock:
    """The time in seconds since a fixed moment, and a function that sleeps. Tests replace both."""

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep


class RateLimiter:
    """Starts the requests of an engine one after the other, at least ``interval_s`` apart, and not during a pause."""

    def __init__(self, interval_s: float, patience_s: float, clock: Clock) -> None:
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._clock = clock
        self._lock = asyncio.Lock()  # its holder is the next request to start
        self._next_at_s = clock.now_s()
        self._paused_until_s = clock.now_s()

    def pause(self, length_s: float) -> None:
        """Do not start requests for ``length_s``, including requests that already wait. A pause that ends later stays in force."""
        self._paused_until_s = max(self._paused_until_s, self._clock.now_s() + length_s)

    async def wait(self) -> None:
        """Wait until this request may start. Raises ``TransientError`` without a wait if a pause is longer than the patience."""
        async with self._lock:
            while (wait_s := self._measure_wait()) > 0:
                await self._clock.sleep(wait_s)
            self._next_at_s = self._clock.now_s() + self._interval_s

    def _measure_wait(self) -> float:
        now_s = self._clock.now_s()
        pause_s = self._paused_until_s - now_s
        if pause_s > self._patience_s:
            raise TransientError(f"the endpoint requested a pause, of which {pause_s:.0f} s are left")
        return max(pause_s, self._next_at_s - now_s)


class Backoff:
    """Exponential backoff with full jitter: a random wait from 0 to a bound that doubles with every error, from 1 s to 30 s.

    Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._bound_s = _FIRST_BACKOFF_S

    def next_s(self) -> float:
        """Return the time to wait after one more error."""
        wait_s = self._random.uniform(0, self._bound_s)
        self._bound_s = min(2 * self._bound_s, _MAX_BACKOFF_S)
        return wait_s


class ResponseTracker:
    """Counts the responses of the endpoint to all requests. A response that refuses a request counts too."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.count = 0
        self.last_at_s = float("-inf")

    def record(self) -> None:
        self.count += 1
        self.last_at_s = self._clock.now_s()


class RetryState:
    """The errors of one request. They show whether the endpoint is unavailable or fails only this request.

    ``error_weight`` is the total weight of the errors between which the endpoint answered other requests. ``patience_ended``
    is true from the first error after the patience has ended. From then on, the request itself may be the cause.
    """

    def __init__(self, responses: ResponseTracker, patience_s: float, clock: Clock) -> None:
        self._responses = responses
        self._patience_s = patience_s
        self._clock = clock
        self._started_at_s = clock.now_s()
        self._seen = responses.count
        self.error_weight = 0
        self.patience_ended = False

    def record_error(self, weight: int) -> None:
        """Add an error to this request's weight if the endpoint answered other requests since the last error.

        A rate limit or an overload has weight 0 until the patience ends, because it can affect any request. After that it counts,
        because an endpoint that still refuses this request while it answers other requests rejects its content.
        """
        if self._responses.count > self._seen:
            self.error_weight += weight or (_LATE_LIMIT_WEIGHT if self.patience_ended else 0)
        self._seen = self._responses.count
        self.patience_ended = self.patience_ended or self.is_patience_over()

    @property
    def is_at_fault(self) -> bool:
        return self.error_weight >= MAX_ERROR_WEIGHT

    def is_patience_over(self) -> bool:
        """Return whether the endpoint has been unavailable for ``patience_s``. The time before this request does not count."""
        return self._clock.now_s() - max(self._started_at_s, self._responses.last_at_s) >= self._patience_s
