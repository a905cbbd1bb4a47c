"""When a request may go out, and how long it goes on trying: pacing, pauses that the endpoint asks for, backoff, patience."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from common.errors import TransientError

MOST_BLAME = 5  # weight of one request's faults while others were answered, before the fault is its own

_LATE_LIMIT = 2  # weight of a limit or an overload that the endpoint tells a doubted request
_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 30.0


@dataclass(frozen=True, slots=True)
class Clock:
    """The time in seconds, from anywhere, and how to sleep; tests dictate both."""

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep


class Gate:
    """What every request of an engine passes: one after the other, ``interval_s`` apart, and nobody during a pause."""

    def __init__(self, interval_s: float, patience_s: float, clock: Clock) -> None:
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._clock = clock
        self._turn = asyncio.Lock()
        self._next_at_s = clock.now_s()
        self._paused_until_s = clock.now_s()

    def pause(self, wait_s: float) -> None:
        """Let nobody pass for ``wait_s``, also those who wait already.  A pause that ends later stays."""
        self._paused_until_s = max(self._paused_until_s, self._clock.now_s() + wait_s)

    async def pass_through(self) -> None:
        """Return when it is this request's turn.  Raises ``TransientError`` at once for a pause longer than the patience."""
        async with self._turn:
            while (wait_s := self._measure_wait()) > 0:
                await self._clock.sleep(wait_s)
            self._next_at_s = self._clock.now_s() + self._interval_s

    def _measure_wait(self) -> float:
        now_s = self._clock.now_s()
        pause_s = self._paused_until_s - now_s
        if pause_s > self._patience_s:
            raise TransientError(f"the endpoint asked for a pause, and {pause_s:.0f} s of it are left")
        return max(pause_s, self._next_at_s - now_s)


class Backoff:
    """Waits with full jitter: anything from 0 to a bound that doubles with every fault, from 1 s to 30 s.

    Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._bound_s = _FIRST_BACKOFF_S

    def next_s(self) -> float:
        """Return how long to wait after one more fault."""
        wait_s = self._random.uniform(0, self._bound_s)
        self._bound_s = min(2 * self._bound_s, _LONGEST_BACKOFF_S)
        return wait_s


class Pulse:
    """Beats with every answer that the endpoint gives to any request, be it a refusal."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.beats = 0
        self.beat_at_s = float("-inf")

    def beat(self) -> None:
        self.beats += 1
        self.beat_at_s = self._clock.now_s()


class Trial:
    """One request's tries.  Tells an endpoint that answers nobody from one that fails this request alone."""

    def __init__(self, pulse: Pulse, patience_s: float, clock: Clock) -> None:
        self._pulse = pulse
        self._patience_s = patience_s
        self._clock = clock
        self._begun_at_s = clock.now_s()
        self._seen = pulse.beats
        self.blame = 0  # the weight of its faults, only of those between which the endpoint answered others
        self.is_doubted = False  # it has failed to the end of the patience: is it the endpoint at all?

    def note_fault(self, weight: int) -> None:
        """Put a fault to this request's blame if others were answered since the last one.

        Limits and overloads, of no weight, are nobody's fault for as long as the patience lasts.  Once it has ended they count
        too: an endpoint that answers others then, and goes on to refuse this request, refuses it for what it is.
        """
        if self._pulse.beats > self._seen:
            self.blame += weight or (_LATE_LIMIT if self.is_doubted else 0)
        self._seen = self._pulse.beats
        self.is_doubted = self.is_doubted or self.is_over()

    @property
    def is_at_fault(self) -> bool:
        return self.blame >= MOST_BLAME

    def is_over(self) -> bool:
        """Return whether the endpoint has answered nobody for as long as the patience lasts."""
        return self._clock.now_s() - max(self._begun_at_s, self._pulse.beat_at_s) >= self._patience_s
