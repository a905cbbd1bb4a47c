"""A fake clock for pacing and timeouts. A sleep advances the clock and returns immediately."""

import asyncio
from dataclasses import dataclass, field

from workers.engines.openai.pacing import Clock


@dataclass
class FakeClock:
    """A clock that shows ``now_s`` and records the length of each sleep in ``slept``.

    Tasks continue in the order of their sleeps.
    """

    now_s: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def as_clock(self) -> Clock:
        return Clock(lambda: self.now_s, self.sleep)

    async def sleep(self, length_s: float) -> None:
        self.slept.append(length_s)
        self.now_s += length_s
        await asyncio.sleep(0)
