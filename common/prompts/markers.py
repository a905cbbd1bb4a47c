"""Markers in a text, such as ``<image>`` and ``<image 2>``. A marker states where an image or a video is placed."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple

from common.errors import SampleError
from common.records import Media
from common.sample_codes import SampleCode

_MARKER = re.compile(r"<(image|video)(?: ?([0-9]+))?>")
_MARKER_ON_LINE = re.compile(rf"\n?{_MARKER.pattern}\n?")
_MOST_DIGITS = 6


class Marker(NamedTuple):
    """A marker in a text.

    - ``number`` counts the media of its kind from 1. It is None without a number, and -1 for a number that is too long.
    - ``written`` is the marker in the text from ``start`` to ``end``.
    """

    kind: Literal["image", "video"]
    number: int | None
    written: str
    start: int
    end: int


def find_markers(text: str, *, with_line_breaks: bool = False) -> Iterator[Marker]:
    """Yield the markers of a text. With ``with_line_breaks``, a marker contains the line breaks next to it, as in LLaVA."""
    for found in (_MARKER_ON_LINE if with_line_breaks else _MARKER).finditer(text):
        number = None if found[2] is None else int(found[2]) if len(found[2]) <= _MOST_DIGITS else -1
        yield Marker("image" if found[1] == "image" else "video", number, found[0], *found.span())


def drop_markers(text: str, kinds: Collection[str], *, begins_line: bool = False) -> str:
    """Return a text of a template without the markers of these kinds of media.

    A marker on a line of its own is dropped with its line. ``begins_line`` states whether the text begins a line. A marker with a
    number stays, and ``Placement`` reports it.
    """
    start = r"(?:\A|(?<=\n))" if begins_line else r"(?<=\n)"
    for kind in kinds:
        text = re.sub(rf"{start}<{kind}>\n|<{kind}>", "", text)
    return text


class Placement:
    """Replaces the markers in the texts of one row by the indices of its media, and records which media are placed.

    Each ``<image 2>`` is the second image of the row, or the image with the number 2 if the row's images have numbers. ``<image>``
    is the first image that is not placed yet. Markers of videos follow the same rules, and videos are counted separately. In a row
    without images, ``<image>`` in a text of the row is plain text. In a template, it is dropped (``drop_markers``).
    """

    def __init__(self, media: Sequence[Media], *, offset: int = 0) -> None:
        """Set the media of the row. ``offset`` is added to each index if other media come first in the list of the request."""
        self._by_kind = {kind: [index for index, one in enumerate(media) if one.kind == kind] for kind in ("image", "video")}
        self._by_number = {
            kind: {_number(media[index], position): index for position, index in enumerate(indices, start=1)}
            for kind, indices in self._by_kind.items()
        }
        self._count = len(media)
        self._offset = offset
        self._placed: set[int] = set()

    @property
    def missing_kinds(self) -> frozenset[str]:
        """Return the kinds of media that the row does not have."""
        return frozenset(kind for kind, indices in self._by_kind.items() if not indices)

    def place(self, text: str) -> list[str | int]:
        """Return the text in pieces, with the index of an image or video in place of each marker.

        Raises ``SampleError`` (``bad_field``) if a marker names an image or video that the row does not have.
        """
        if "<" not in text:
            return [text]
        parts: list[str | int] = []
        end = 0
        for marker in find_markers(text):
            index = self._find(marker)
            if index is not None:
                parts += [text[end : marker.start], index + self._offset]
                self._placed.add(index)
                end = marker.end
        return [*parts, text[end:]]

    def note(self, index: int) -> None:
        """Record that the media item with this index is placed."""
        self._placed.add(index)

    def list_unplaced(self) -> list[int]:
        """Return the indices of the media that are not placed, in order."""
        return [index + self._offset for index in range(self._count) if index not in self._placed]

    def _find(self, marker: Marker) -> int | None:
        kind, indices = marker.kind, self._by_kind[marker.kind]
        if marker.number is None:
            if not indices:
                return None
            left = [index for index in indices if index not in self._placed]
            if left:
                return left[0]
        elif marker.number in self._by_number[kind]:
            return self._by_number[kind][marker.number]
        counted = f"{len(indices)} {kind}{'' if len(indices) == 1 else 's'}"
        if (numbers := list(self._by_number[kind])) != list(range(1, len(indices) + 1)):
            counted += f" with the {'number' if len(numbers) == 1 else 'numbers'} {', '.join(map(str, numbers))}"
        message = f"{marker.written} names a missing {kind}, but the row has {counted}; correct the marker or add the {kind}"
        raise SampleError(SampleCode.BAD_FIELD, message)


def _number(media: Media, position: int) -> int:
    return position if media.number is None else media.number
