"""A memory budget that samples share in first-in, first-out order."""

import asyncio
from collections import deque


class MemoryBudget:
    """A number of bytes that the coroutines of one event loop share. It is not thread-safe.

    Requests are served in order of arrival, so that small requests cannot starve a large one.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.free_bytes = capacity_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, wanted_bytes: int) -> int:
        """Wait for a share and return its size in bytes.

        A request for more than the whole budget gets the whole budget. No other request has a share at that time.
        """
        share = min(wanted_bytes, self.capacity_bytes)
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((share, granted))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():  # it was granted in the same iteration of the event loop
                self.give_back(share)
            self._grant()  # the requests behind this one may fit now
            raise
        return share

    def give_back(self, share_bytes: int) -> None:
        """Return a share to the budget, or the part of it that is no longer needed."""
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
