"""Markers in a text, such as ``<image>`` and ``<image 2>``, which state where a media stands."""

import re
from collections.abc import Sequence

from common.errors import SampleError
from common.records import Media
from common.sample_codes import SampleCode

_MARKER = re.compile(r"<(image|video)(?: ?([0-9]+))?>")
_MOST_DIGITS = 6


class Placement:
    """Replaces the markers in the texts of one row by the indices of its media, and keeps which media are placed.

    ``<image 2>`` is the second image, as often as it occurs. ``<image>`` is the first image that has no place yet. The same
    applies to videos, which are counted separately. A ``<image>`` in a row without images is text.
    """

    def __init__(self, media: Sequence[Media], *, offset: int = 0) -> None:
        """``offset`` is added to each index, for media that follow other media in the list of the request."""
        self._by_kind = {kind: [index for index, one in enumerate(media) if one.kind == kind] for kind in ("image", "video")}
        self._count = len(media)
        self._offset = offset
        self._placed: set[int] = set()

    def place(self, text: str) -> list[str | int]:
        """Return the text in pieces, with the index of a media in place of each marker.

        Raises ``SampleError`` (``bad_field``) if a marker names a media that the row does not have.
        """
        if "<" not in text:
            return [text]
        parts: list[str | int] = []
        end = 0
        for found in _MARKER.finditer(text):
            index = self._find(found[0], found[1], found[2])
            if index is not None:
                parts += [text[end : found.start()], index + self._offset]
                self._placed.add(index)
                end = found.end()
        return [*parts, text[end:]]

    def note(self, index: int) -> None:
        """Record that the media ``index`` has a place."""
        self._placed.add(index)

    def list_unplaced(self) -> list[int]:
        """Return the indices of the media that no marker has placed, in order."""
        return [index + self._offset for index in range(self._count) if index not in self._placed]

    def _find(self, marker: str, kind: str, digits: str | None) -> int | None:
        indices = self._by_kind[kind]
        if digits is None:
            if not indices:
                return None
            left = [index for index in indices if index not in self._placed]
            if left:
                return left[0]
        elif len(digits) <= _MOST_DIGITS and 0 < int(digits) <= len(indices):
            return indices[int(digits) - 1]
        counted = f"{len(indices)} {kind}{'' if len(indices) == 1 else 's'}"
        message = f"{marker} names a missing {kind}, the row has {counted}; correct the marker or add the {kind}"
        raise SampleError(SampleCode.BAD_FIELD, message)
