"""Read the lines of a dataset file as bytes with their offsets, in constant memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from common.errors import ConfigError
from common.spec.models import DatasetSource

# A longer line means that the file has another format, such as one large JSON array. The line is cut, and its row is invalid.
LINE_LIMIT_BYTES = 256 * 2**20
_BOM = b"\xef\xbb\xbf"

# The first bytes of files in other formats that may have a text file's extension. Without this check, every line of such a file
# becomes an invalid row.
_OTHER_KINDS = {
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"BZh": "compressed with bzip2; unpack it",
    b"\xfd7zXZ": "compressed with xz; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save it as text",
    b"PAR1": "a Parquet file; write it as JSON lines",
    b"SQLite format 3\0": "a SQLite database; write it as JSON lines",
    b"\xff\xfe": "text in UTF-16; save it in UTF-8",
    b"\xfe\xff": "text in UTF-16; save it in UTF-8",
}


@contextmanager
def open_text(source: DatasetSource) -> Iterator[BinaryIO]:
    """Open a text dataset for reading bytes. Raises ``ConfigError`` if its first bytes indicate another format."""
    with Path(source.path).open("rb") as stream:
        begin = stream.read(max(map(len, _OTHER_KINDS)))
        if found := next((what for magic, what in _OTHER_KINDS.items() if begin.startswith(magic)), None):
            raise ConfigError(f"dataset {source.name!r}: path: {source.path} is {found}")
        stream.seek(0)
        yield stream


def read_lines(stream: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number from 1, offset in bytes, line with its ending). A line over the limit is cut and has no line ending."""
    offset = skip_bom(stream)
    for number, line in enumerate(iter(partial(stream.readline, LINE_LIMIT_BYTES), b""), start=1):
        yield number, offset, line
        offset += len(line)
        if is_cut(line):
            offset += skip_line(stream)


def is_cut(line: bytes) -> bool:
    """Return whether the line was cut because it exceeds the limit."""
    return len(line) >= LINE_LIMIT_BYTES and not line.endswith(b"\n")


def skip_bom(stream: BinaryIO) -> int:
    """Skip a byte-order mark at the start of the file and return the new offset."""
    if stream.read(len(_BOM)) == _BOM:
        return len(_BOM)
    stream.seek(0)
    return 0


def skip_line(stream: BinaryIO) -> int:
    """Skip the rest of a cut line. Return the number of bytes skipped."""
    skipped = 0
    while rest := stream.readline(LINE_LIMIT_BYTES):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
    return skipped
