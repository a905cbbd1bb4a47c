"""A budget of memory that samples share, first come, first served."""

import asyncio
from collections import deque


class MemoryBudget:
    """So many bytes to be shared out.  For one event loop's coroutines; threads do not touch it.

    Whoever waits is served in order of arrival, so that a large share is not passed by for ever by small ones.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.free_bytes = capacity_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, wanted_bytes: int) -> int:
        """Wait for a share and return its size: what is wanted, or the whole budget if that is less, to be alone with it."""
        share = min(wanted_bytes, self.capacity_bytes)
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((share, granted))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():  # it was granted in the same turn of the loop
                self.give_back(share)
            self._grant()  # those behind may fit
            raise
        return share

    def give_back(self, share_bytes: int) -> None:
        """Return a share, or a part of it that is no longer needed."""
        self.free_bytes += share_bytes
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            share, granted = self._waiting[0]
            if not granted.done():
                if share > self.free_bytes:
                    return
                self.free_bytes -= share
                granted.set_result(None)
            self._waiting.popleft()
