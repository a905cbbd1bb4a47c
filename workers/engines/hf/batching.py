"""Which requests go into one batch, and how large a batch may be.  Pure; knows neither torch nor transformers."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from workers.engines.base import Generation, Request

# Only neighbours in the order by length depend on these two, so they need not be right for any one model.
CHARACTERS_PER_TOKEN = 4
PIXELS_PER_TOKEN = 28 * 28


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A request that waits for its batch: its prompt as the chat template rendered it, and who awaits the answer."""

    request: Request
    text: str
    future: asyncio.Future[Generation]

    @property
    def key(self) -> tuple[int, tuple[str, ...], bool]:
        """Return what the requests of one batch must share.  Temperature, top_p and seed are each row's own."""
        settings = self.request.settings
        return settings.max_tokens, settings.stop, bool(self.request.images)

    @property
    def length(self) -> int:
        """Return the prompt's length in estimated tokens."""
        pixels = sum(image.width * image.height for image in self.request.images)
        return len(self.text) // CHARACTERS_PER_TOKEN + pixels // PIXELS_PER_TOKEN


def form_batch(waiting: Sequence[Waiting], limit: int) -> list[Waiting]:
    """Return the next batch out of ``waiting``, which is in order of arrival and not empty.

    The oldest request is always in it, so that nobody starves.  With it go, of those that may share its batch, the up
    to ``limit`` neighbours by length that differ least, so that little is padded.  They come sorted by length.
    """
    oldest = waiting[0]
    peers = sorted((one for one in waiting if one.key == oldest.key), key=lambda one: one.length)
    size = min(limit, len(peers))
    place = peers.index(oldest)
    starts = range(max(0, place - size + 1), min(place, len(peers) - size) + 1)
    first = min(starts, key=lambda start: peers[start + size - 1].length - peers[start].length)
    return peers[first : first + size]


class BatchLimit:
    """How many requests a batch may hold, between 1 and ``most``.

    Out of memory with ``n`` requests lowers it to half of ``n``; ``GROW_AFTER`` full batches in a row raise it by one,
    so that one long prompt does not make the rest of the run slow.
    """

    GROW_AFTER = 16

    def __init__(self, most: int) -> None:
        self.size = most
        self._most = most
        self._full_batches = 0

    def shrink(self, count: int) -> None:
        """Take note that ``count`` requests did not fit."""
        self.size = min(self.size, max(1, count // 2))
        self._full_batches = 0

    def succeed(self, count: int) -> None:
        """Take note that ``count`` requests did fit."""
        if count < self.size or self.size == self._most:
            return
        self._full_batches += 1
        if self._full_batches == self.GROW_AFTER:
            self.size += 1
            self._full_batches = 0


def cut_at_end(tokens: Sequence[int], ends: Collection[int]) -> Sequence[int]:
    """Return a row of new tokens without its end token and what follows it (padding)."""
    for place, token in enumerate(tokens):
        if token in ends:
            return tokens[:place]
    return tokens


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Return the text before the first stop string, and whether there was one."""
    places = [place for place in map(text.find, stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)
