"""The image cells of a VLMEvalKit TSV: base64, the ``index`` of another row, or a list literal of these.

Small images are copied into the sample. Larger images stay in the file, and the sample refers to their byte ranges. An index of the
whole file (16 bytes per row) finds other rows. It is built at its first use. All images of a compressed file are copied into the
sample, and the index of such a file refers to an unpacked temporary copy.
"""

import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedRandom, BufferedReader
from shutil import copyfileobj
from tempfile import TemporaryFile

import numpy as np

from common.digests import digest_bytes
from common.errors import SampleError
from common.storage.files import open_file
from producer.datasets.media import Reference, embed
from producer.datasets.readers.compression import find_compression, open_unpacked
from producer.datasets.readers.lines import skip_bom
from producer.datasets.readers.tsv import Record, Span, read_cell, read_records, split_record

# VLMEvalKit's rule: image text of at most this many characters is the index of the row that has the image.
INDEX_LIMIT = 64
# One text of a list literal as written in the file: in single quotes, in double quotes (doubled in CSV), or unquoted.
_ELEMENT = re.compile(rb"""'([^']+)'|"+([^"]+)"+|([^\s\[\],'"]+)""")
_UTF8_BYTES = 4
_KEPT_ROWS = 256  # each of their images has at most INLINE_LIMIT_BYTES


class ImageCells:
    """The image cells of one file. ``index_column`` and ``image_column`` are positions in its header."""

    def __init__(self, path: str, index_column: int | None, image_column: int | None) -> None:
        self._path = path
        self._is_packed = find_compression(path) is not None
        self._unpacked: BufferedRandom | None = None
        self._index_column = index_column
        self._image_column = image_column
        self._offsets: tuple[np.ndarray, np.ndarray] | None = None
        # Adjacent rows often refer to the same row. The images of a compressed file are copied whole, so only one row is kept.
        self._find_images = lru_cache(maxsize=1 if self._is_packed else _KEPT_ROWS)(self._find_images_of_row)

    def close(self) -> None:
        """Delete the unpacked copy of a compressed file."""
        if self._unpacked is not None:
            self._unpacked.close()

    def read(self, record: Record, span: Span) -> list[Reference]:
        """Return the images of a cell, or an empty list for an empty cell. Raises ``SampleError``."""
        references = []
        for start, end in find_elements(record.content, span):
            if index := _read_index(record.content[start : min(end, start + _UTF8_BYTES * INDEX_LIMIT + 1)]):
                references += self._find_images(index)
            else:
                references.append(self._embed(record, start, end))
        return references

    def _embed(self, record: Record, start: int, end: int) -> Reference:
        payload = record.content[start:end]
        if not payload.isascii() or b":" in payload[:INDEX_LIMIT]:
            found = f"{payload[:24].decode('utf-8', 'replace')!r}…"
            raise SampleError("bad_media", f"found {found}; expected base64 text (paths and URLs belong in image_path)")
        return embed(payload, "image", self._path, None if self._is_packed else record.offset + start)

    def _find_images_of_row(self, index: str) -> list[Reference]:
        with self._open() as stream:
            for offset in self._find_offsets(index):
                stream.seek(offset)
                record = next(read_records(stream, offset=offset))
                spans = split_record(record.content)
                column = self._image_column
                if column is not None and column < len(spans) and self._read_row_index(record.content, spans) == index.encode():
                    return self._read_own_images(record, spans[column], index)
        raise SampleError("bad_media", f"found {index!r}; expected base64 text, or the index of another row with an image")

    def _read_own_images(self, record: Record, span: Span, index: str) -> list[Reference]:
        elements = find_elements(record.content, span)
        if not elements or any(end - start <= INDEX_LIMIT for start, end in elements):
            raise SampleError("bad_media", f"found {index!r}, a row without an image; expected the index of a row with an image")
        return [self._embed(record, start, end) for start, end in elements]

    def _find_offsets(self, index: str) -> list[int]:
        if self._offsets is None:
            with self._open() as stream:
                self._offsets = self._index_rows(stream)
        keys, offsets = self._offsets
        key = _digest_index(index.encode())
        return [int(offset) for offset in offsets[np.searchsorted(keys, key, "left") : np.searchsorted(keys, key, "right")]]

    @contextmanager
    def _open(self) -> Iterator[BufferedReader | BufferedRandom]:
        """Open the unpacked file for reading and seeking."""
        if not self._is_packed:
            with open_file(self._path) as stream:
                yield stream
            return
        if self._unpacked is None:
            self._unpacked = TemporaryFile()  # noqa: SIM115  ``close`` closes it
            with open_unpacked(self._path, self._path) as packed:
                copyfileobj(packed, self._unpacked)
        self._unpacked.seek(0)
        yield self._unpacked

    def _index_rows(self, stream: BufferedReader | BufferedRandom) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted digests of all rows' indexes, and the offsets of their records. Equal digests keep file order."""
        keys, offsets = array("Q"), array("q")
        for record in read_records(stream, offset=skip_bom(stream)):
            keys.append(_digest_index(self._read_row_index(record.content, split_record(record.content))))
            offsets.append(record.offset)
        unsorted = np.frombuffer(keys, dtype=np.uint64)
        order = np.argsort(unsorted, kind="stable")
        return unsorted[order], np.frombuffer(offsets, dtype=np.int64)[order]

    def _read_row_index(self, content: bytes, spans: list[Span]) -> bytes:
        if self._index_column is None or self._index_column >= len(spans):
            return b""
        return read_cell(content, spans[self._index_column]).strip()


def find_elements(content: bytes, span: Span) -> list[Span]:
    """Return the spans of the texts in an image cell: one text, the texts of its list literal, or an empty list."""
    start, end = span
    while start < end and content[start] in b'" \r\n':
        start += 1
    while start < end and content[end - 1] in b'" \r\n':
        end -= 1
    if content.startswith(b"[", start, end):
        return [match.span(match.lastindex or 0) for match in _ELEMENT.finditer(content, start, end)]
    return [(start, end)] if start < end else []


def _read_index(head: bytes) -> str | None:
    """Return the row index that begins at an element, or ``None`` if the element is too long to be an index."""
    text = head.decode("utf-8", "replace")
    return text if len(text) <= INDEX_LIMIT and len(head) <= _UTF8_BYTES * INDEX_LIMIT else None


def _digest_index(index: bytes) -> int:
    return int(digest_bytes(index, size=8), 16)
