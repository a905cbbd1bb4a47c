"""Read a file that may be compressed with gzip or zstd. The first bytes of the file determine the compression, not its name."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from io import BufferedReader, RawIOBase
from typing import BinaryIO, cast

import pyarrow as pa
from typing_extensions import Buffer

from common.errors import ConfigError, explain_unreadable
from common.storage.files import open_file

_BUFFER_BYTES = 256 * 1024


class Compression(StrEnum):
    """The compressions that can be read. The values are pyarrow's names."""

    GZIP = "gzip"
    ZSTD = "zstd"


_MAGIC = {b"\x1f\x8b": Compression.GZIP, b"\x28\xb5\x2f\xfd": Compression.ZSTD}


def find_compression(path: str) -> Compression | None:
    """Return the compression of a file, or None for a file that is not compressed."""
    with open_file(path) as stream:
        begin = stream.read(max(map(len, _MAGIC)))
    return next((compression for magic, compression in _MAGIC.items() if begin.startswith(magic)), None)


@contextmanager
def open_unpacked(path: str, where: str) -> Iterator[BufferedReader]:
    """Open a file for reading its unpacked bytes. The stream of a compressed file cannot seek.

    Reading the stream raises ``ConfigError`` if the compressed file is cut off or damaged. The message begins with ``where``.
    """
    compression = find_compression(path)
    with open_file(path) as packed:
        if compression is None:
            yield packed
        else:
            opened = gzip.GzipFile(fileobj=packed) if compression is Compression.GZIP else pa.CompressedInputStream(packed, "zstd")
            with opened as unpacked:
                yield cast(BufferedReader, BufferedReader(_Unpacked(unpacked, f"{where}: {compression}"), _BUFFER_BYTES))


class _Unpacked(RawIOBase):
    """A stream of unpacked bytes. It raises ``ConfigError`` if the compressed file is damaged."""

    def __init__(self, unpacked: BinaryIO | gzip.GzipFile, where: str) -> None:
        self._unpacked = unpacked
        self._where = where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        try:
            content = self._unpacked.read(len(view))
        except (OSError, EOFError, zlib.error) as error:
            message = f"{self._where}: the compressed file is cut or damaged ({error}); expected a complete file: copy it again"
            raise (explain_unreadable(error, message) if isinstance(error, OSError) else ConfigError(message)) from error
        view[: len(content)] = content
        return len(content)
