"""Read the lines of a dataset file as bytes with their offsets, in constant memory. The file may be compressed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedRandom, BufferedReader
from typing import BinaryIO

from common.errors import ConfigError
from common.spec.models import DatasetSource
from producer.datasets.readers.compression import open_unpacked

# A longer line means that the file has another format, such as one large JSON array. The line is cut, and its row is invalid.
LINE_LIMIT_BYTES = 256 * 2**20
_BOM = b"\xef\xbb\xbf"

# The first bytes of files in other formats that may have a text file's extension. Without this check, every line of such a file
# becomes an invalid row.
_OTHER_KINDS = {
    b"\x1f\x8b": "compressed with gzip twice; unpack it once",
    b"BZh": "compressed with bzip2; unpack it, or compress it with gzip or zstd",
    b"\xfd7zXZ": "compressed with xz; unpack it, or compress it with gzip or zstd",
    b"\x28\xb5\x2f\xfd": "compressed with zstd twice; unpack it once",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save it as text",
    b"PAR1": "a Parquet file; give its format: parquet",
    b"ARROW1": "an Arrow file; give its format: arrow",
    b"SQLite format 3\0": "a SQLite database; write it as JSON lines",
    b"\xff\xfe": "text in UTF-16; save it in UTF-8",
    b"\xfe\xff": "text in UTF-16; save it in UTF-8",
}


@contextmanager
def open_text(source: DatasetSource) -> Iterator[BufferedReader]:
    """Open a text dataset for reading its unpacked bytes.

    Raises ``ConfigError`` if the first bytes indicate another format. Reading a damaged compressed file also raises
    ``ConfigError``.
    """
    where = f"dataset {source.name!r}: path: {source.path}"
    with open_unpacked(source.path, where) as stream:
        begin = stream.peek(max(map(len, _OTHER_KINDS)))
        if found := next((what for magic, what in _OTHER_KINDS.items() if begin.startswith(magic)), None):
            raise ConfigError(f"{where} is {found}")
        yield stream


def read_lines(stream: BufferedReader) -> Iterator[tuple[int, int, bytes]]:
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


def skip_bom(stream: BufferedReader | BufferedRandom) -> int:
    """Skip a byte-order mark at the start of the file and return the new offset."""
    return len(stream.read(len(_BOM))) if stream.peek(len(_BOM)).startswith(_BOM) else 0


def skip_line(stream: BinaryIO) -> int:
    """Skip the rest of a cut line. Return the number of bytes skipped."""
    skipped = 0
    while rest := stream.readline(LINE_LIMIT_BYTES):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
    return skipped
