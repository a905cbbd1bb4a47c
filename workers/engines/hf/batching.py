"""Batch formation, the batch size limit, and truncation of answers.

The functions are pure: they import neither torch nor transformers.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from workers.engines.base import Generation, Request

# Estimates. They affect only which requests are neighbours in the order by length, so they need not be exact for any model.
CHARACTERS_PER_TOKEN = 4
PIXELS_PER_TOKEN = 28 * 28


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A request that waits for a batch, with its rendered prompt and the future of its answer."""

    request: Request
    text: str
    future: asyncio.Future[Generation]

    @property
    def key(self) -> tuple[int, tuple[str, ...], bool, bool]:
        """Return the values that all requests of a batch must share.

        They are max_tokens, the stop strings, and whether there are images and videos.

        Temperature, top_p and seed may differ by row.
        """
        settings = self.request.settings
        return settings.max_tokens, settings.stop, bool(self.request.shown_images), bool(self.request.shown_videos)

    @property
    def length(self) -> int:
        """Return the estimated length of the prompt, in tokens."""
        pixels = sum(image.width * image.height for image in self.request.shown)
        return len(self.text) // CHARACTERS_PER_TOKEN + pixels // PIXELS_PER_TOKEN


def form_batch(waiting: Sequence[Waiting], limit: int) -> list[Waiting]:
    """Return the next batch of at most ``limit`` requests, sorted by length.

    ``waiting`` is in order of arrival and not empty. The batch always contains the oldest request, to prevent starvation.
    Its other requests have the same ``key``. Of all windows in the order by length that contain the oldest request, the
    batch is the window with the smallest difference in length. This minimises padding.
    """
    oldest = waiting[0]
    compatible = sorted((candidate for candidate in waiting if candidate.key == oldest.key), key=lambda candidate: candidate.length)
    size = min(limit, len(compatible))
    position = compatible.index(oldest)
    starts = range(max(0, position - size + 1), min(position, len(compatible) - size) + 1)
    first = min(starts, key=lambda start: compatible[start + size - 1].length - compatible[start].length)
    return compatible[first : first + size]


class BatchLimit:
    """The adaptive maximum batch size, in requests, between 1 and ``maximum``.

    An out-of-memory error with ``n`` requests lowers it to half of ``n``. ``GROW_AFTER`` full batches without a further
    error raise it by one, so that one long prompt does not slow down the rest of the run.
    """

    GROW_AFTER = 16

    def __init__(self, maximum: int) -> None:
        self.size = maximum
        self._maximum = maximum
        self._full_batches = 0

    def shrink(self, count: int) -> None:
        """Record that a batch of ``count`` requests ran out of memory."""
        self.size = min(self.size, max(1, count // 2))
        self._full_batches = 0

    def succeed(self, count: int) -> None:
        """Record that a batch of ``count`` requests fit into memory. Only a full batch counts towards growth."""
        if count < self.size or self.size == self._maximum:
            return
        self._full_batches += 1
        if self._full_batches == self.GROW_AFTER:
            self.size += 1
            self._full_batches = 0


def cut_at_end(tokens: Sequence[int], ends: Collection[int]) -> Sequence[int]:
    """Return the new tokens of a row up to its first end token. Padding follows the end token."""
    for position, token in enumerate(tokens):
        if token in ends:
            return tokens[:position]
    return tokens


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Return the text before the first stop string, and whether the text has a stop string."""
    positions = [position for position in map(text.find, stop) if position >= 0]
    return (text[: min(positions)], True) if positions else (text, False)
