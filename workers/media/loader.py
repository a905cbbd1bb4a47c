"""Decode media ahead of the engine, within the thread and memory limits of the settings."""

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
from workers.media.reader import OpenedMedia, open_media

# The decoded images of each media item: one image for an image, and the ``Frames`` of a video.
Decoded = tuple[tuple[Image, ...], ...]


class MediaLoader:
    """Decodes the media of one sample in each thread, as far ahead of the engine as the memory budget allows.

    A sample takes its share of the budget before it is decoded and gives it back when its images are released. All images
    that the engine holds or waits for therefore fit into ``memory_bytes``. A sample that needs more memory is decoded
    while no other sample has a share. In addition to the budget, the files of at most twice as many samples as threads wait in
    memory.
    """

    def __init__(self, threads: int, memory_bytes: int) -> None:
        return_freed_images()
        self.budget = MemoryBudget(memory_bytes)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="media")
        self._open_samples = asyncio.Semaphore(2 * threads)  # for each thread, the sample that it decodes and the next sample

    @asynccontextmanager
    async def hold(self, media: Sequence[Media], access: MediaAccess, bounds: MediaBounds) -> AsyncIterator[Decoded]:
        """Yield the decoded images of each media item of one sample, in order, in mode RGB. Do not keep them after the block.

        Raises the errors of ``open_media``.
        """
        if not media:
            yield ()
            return
        async with self._open_samples:
            share, decoding = await self._start_decoding(media, access, bounds)
            try:
                decoded = await asyncio.wrap_future(decoding)
            except BaseException:
                self._give_back_after(decoding, share)
                raise
            kept = min(share, sum(PIXEL_BYTES * image.width * image.height for images in decoded for image in images))
            self.budget.give_back(share - kept)
        try:
            yield decoded
        finally:
            self.budget.give_back(kept)

    def stop(self) -> None:
        """Wait for the media that are being decoded. Do not start others."""
        self._threads.shutdown(cancel_futures=True)

    async def _start_decoding(
        self, media: Sequence[Media], access: MediaAccess, bounds: MediaBounds
    ) -> tuple[int, "Future[Decoded]"]:
        """Start to decode a sample's media. Return the share of the budget in bytes and the future of the images."""
        opening = self._threads.submit(lambda: [open_media(one, access, bounds) for one in media])
        opened = await asyncio.wrap_future(opening)
        share = await self.budget.take(sum(one.peak_bytes for one in opened))
        return share, self._threads.submit(_decode, opened)

    def _give_back_after(self, decoding: "Future[Decoded]", share: int) -> None:
        """Return a share once its thread has finished: decoding cannot be cancelled, and takes memory until it ends."""
        call_soon = asyncio.get_running_loop().call_soon_threadsafe
        decoding.add_done_callback(lambda _: call_soon(self.budget.give_back, share))


def _decode(opened: list[OpenedMedia]) -> Decoded:
    """Return the decoded images of each media item of a sample. Each file is released from memory as soon as it is decoded."""
    decoded: list[tuple[Image, ...]] = []
    opened.reverse()
    try:
        while opened:
            decoded.append(opened.pop().decode())
    finally:
        opened.clear()
    return tuple(decoded)
