"""Lines of a dataset file as bytes, with where they lie, in memory that does not grow with the file."""

from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

# A line longer than this is no row but a file of another kind (one huge JSON array, say): it is cut, and so at fault.
LINE_LIMIT_BYTES = 256 * 2**20
_BOM = b"\xef\xbb\xbf"


def read_lines(stream: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number from 1, offset in bytes, line with its end); a line over the limit comes cut, without its end."""
    offset = skip_bom(stream)
    for number, line in enumerate(iter(partial(stream.readline, LINE_LIMIT_BYTES), b""), start=1):
        yield number, offset, line
        offset += len(line)
        if len(line) >= LINE_LIMIT_BYTES and not line.endswith(b"\n"):
            offset += skip_line(stream)


def skip_bom(stream: BinaryIO) -> int:
    """Step over a byte-order mark at the start of the file; return the offset reached."""
    if stream.read(len(_BOM)) == _BOM:
        return len(_BOM)
    stream.seek(0)
    return 0


def skip_line(stream: BinaryIO) -> int:
    """Step over what is left of a cut line; return how many bytes that was."""
    skipped = 0
    while rest := stream.readline(LINE_LIMIT_BYTES):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
    return skipped
