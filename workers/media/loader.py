"""Media decoded ahead of the engine: as many threads and as much memory as the settings allow."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager

from PIL.Image import Image

from common.records import Media
from common.spec.models import MediaBounds
from workers.media.files import MediaAccess
from workers.media.images import PIXEL_BYTES
from workers.media.malloc import return_freed_images
from workers.media.memory_budget import MemoryBudget
from workers.media.reader import Opened, open_media


class MediaLoader:
    """Decodes one sample's media a thread, as far ahead of the engine as the budget of memory allows.

    A sample takes its share before it is decoded and gives it back when its images are let go, so that all images that the
    engine has, or waits for, fit into ``memory_bytes``.  A sample that needs more runs while no other has a share.  Beside
    that, the files of at most twice as many samples as threads wait for their turn.
    """

    def __init__(self, threads: int, memory_bytes: int) -> None:
        return_freed_images()
        self.budget = MemoryBudget(memory_bytes)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="media")
        self._places = asyncio.Semaphore(2 * threads)  # one at work, one to follow it

    @asynccontextmanager
    async def hold(self, media: Sequence[Media], access: MediaAccess, bounds: MediaBounds) -> AsyncIterator[tuple[Image, ...]]:
        """Yield the images of one sample's media, in order; the block must let go of them.  Raises what ``open_media`` raises."""
        if not media:
            yield ()
            return
        async with self._places:
            share, decoding = await self._begin(media, access, bounds)
            try:
                images = await asyncio.wrap_future(decoding)
            except BaseException:
                self._give_back_after(decoding, share)
                raise
            kept = min(share, sum(PIXEL_BYTES * image.width * image.height for image in images))
            self.budget.give_back(share - kept)
        try:
            yield images
        finally:
            self.budget.give_back(kept)

    def stop(self) -> None:
        """Wait for what is being decoded; begin no more."""
        self._threads.shutdown(cancel_futures=True)

    async def _begin(
        self, media: Sequence[Media], access: MediaAccess, bounds: MediaBounds
    ) -> tuple[int, "Future[tuple[Image, ...]]"]:
        """Return the share that was taken for a sample's media and the decoding that has begun."""
        opening = self._threads.submit(lambda: [open_media(one, access, bounds) for one in media])
        opened = await asyncio.wrap_future(opening)
        share = await self.budget.take(sum(one.peak_bytes for one in opened))
        return share, self._threads.submit(_decode, opened)

    def _give_back_after(self, decoding: "Future[tuple[Image, ...]]", share: int) -> None:
        """Return a share once its thread has ended: what one has begun cannot be stopped, and takes memory until then."""
        call_soon = asyncio.get_running_loop().call_soon_threadsafe
        decoding.add_done_callback(lambda _: call_soon(self.budget.give_back, share))


def _decode(opened: list[Opened]) -> tuple[Image, ...]:
    """Return the images of a sample's media; each file is let go of once it is decoded."""
    images: list[Image] = []
    opened.reverse()
    try:
        while opened:
            images.extend(opened.pop().decode())
    finally:
        opened.clear()
    return tuple(images)
