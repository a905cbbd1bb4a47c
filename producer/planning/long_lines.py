"""Keep the long lines of samples in one file. The shuffle sorts only their places, and does not copy them or keep them in memory.

A line is long if it contains embedded media. For example, the images of a Parquet file are copied into the plan as base64.
"""

from pathlib import Path
from typing import NamedTuple

LEAST_BYTES = 64 * 2**10  # ranges of this size are read fast, even in random order


class LongLine(NamedTuple):
    """The place of a line in a file. ``read_line`` reads it while the file exists."""

    path: Path
    offset: int
    length: int


def keep_line(line: bytes, path: Path) -> bytes | LongLine:
    """Append a long line to the file at ``path`` and return its place. Return a short line unchanged."""
    if len(line) < LEAST_BYTES:
        return line
    with path.open("ab") as stream:
        place = LongLine(path, stream.tell(), len(line))
        stream.write(line)
    return place


def read_line(line: bytes | LongLine) -> bytes:
    """Return the bytes of a line."""
    if isinstance(line, bytes):
        return line
    with line.path.open("rb") as stream:
        stream.seek(line.offset)
        return stream.read(line.length)
