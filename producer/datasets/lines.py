"""Read the lines of a dataset file as bytes with their offsets, in memory that does not grow with the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from common.errors import ConfigError
from common.spec.models import DatasetSource

# A line longer than this is no row but a file of another kind (one huge JSON array, say): it is cut, and so at fault.
LINE_LIMIT_BYTES = 256 * 2**20
_BOM = b"\xef\xbb\xbf"

# How files of other kinds begin that get a text file's ending: read as text, each of their lines would be a row at fault.
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
    """Open a dataset of text for reading bytes. Raises ``ConfigError`` for a file that is visibly of another kind."""
    with Path(source.path).open("rb") as stream:
        begin = stream.read(max(map(len, _OTHER_KINDS)))
        if found := next((what for magic, what in _OTHER_KINDS.items() if begin.startswith(magic)), None):
            raise ConfigError(f"dataset {source.name!r}: path: {source.path} is {found}")
        stream.seek(0)
        yield stream


def read_lines(stream: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number from 1, offset in bytes, line with its end); a line over the limit comes cut, without its end."""
    offset = skip_bom(stream)
    for number, line in enumerate(iter(partial(stream.readline, LINE_LIMIT_BYTES), b""), start=1):
        yield number, offset, line
        offset += len(line)
        if is_cut(line):
            offset += skip_line(stream)


def is_cut(line: bytes) -> bool:
    """Return whether a line is cut because it is longer than the limit."""
    return len(line) >= LINE_LIMIT_BYTES and not line.endswith(b"\n")


def skip_bom(stream: BinaryIO) -> int:
    """Skip a byte-order mark at the start of the file and return the new offset."""
    if stream.read(len(_BOM)) == _BOM:
        return len(_BOM)
    stream.seek(0)
    return 0


def skip_line(stream: BinaryIO) -> int:
    """Skip the rest of a cut line and return its number of bytes."""
    skipped = 0
    while rest := stream.readline(LINE_LIMIT_BYTES):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
    return skipped
