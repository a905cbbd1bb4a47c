"""Read a JSON file: an array of objects, or an object of lists (one list per column). The rules of JSON lines apply to its rows.

Memory holds one row. An object of lists is read twice. The first pass finds the lists and counts their elements. The second pass
reads all lists at the same time. Some tools write JSON lines to a file named ``.json``; such a file is read as JSON lines.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from io import BufferedReader
from typing import NamedTuple

import msgspec

from common.errors import ConfigError, SampleError
from common.spec.models import DatasetSource
from producer.datasets.readers.compression import find_compression
from producer.datasets.readers.json_elements import JsonCursor
from producer.datasets.readers.jsonl import fill_row
from producer.datasets.readers.lines import open_text, skip_bom
from producer.datasets.registry import register_reader
from producer.datasets.rows import Row, find_fault

_MOST_COLUMNS = 256  # each column is read with its own file handle
_SKIP_BYTES = 2**20


class _Column(NamedTuple):
    """A list of an object: its key as written, the place of its bracket, and its number of elements."""

    key: bytes
    offset: int
    line: int
    size: int

    @property
    def name(self) -> str:
        return str(msgspec.json.decode(self.key))


@register_reader("json", endings=(".json",))
def read_json(source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of a JSON array or of a JSON object of lists. Raises ``ConfigError`` for other JSON."""
    with open_text(source) as stream:
        cursor = JsonCursor(stream, _locate(source), offset=skip_bom(stream))
        found = cursor.peek()
        if found == b"[":
            yield from _read_array(cursor, source)
        elif found == b"{":
            yield from _read_columns(_find_columns(cursor), source)
        elif found:
            raise cursor.refuse("found no array or object; expected [ or {")


def _locate(source: DatasetSource) -> str:
    return f"dataset {source.name!r}: {source.path}"


def _read_array(cursor: JsonCursor, source: DatasetSource) -> Iterator[Row]:
    keeps_offsets = find_compression(source.path) is None
    for number, element in enumerate(cursor.iterate_elements()):
        row = Row(number, f"row {number + 1} (line {element.line})", element.content, element.offset if keeps_offsets else None)
        yield _fill(row, source)
    _expect_end(cursor, "array")


def _find_columns(cursor: JsonCursor) -> list[_Column]:
    """Return the lists of the object at the cursor. Raises ``ConfigError`` if they do not form a table."""
    columns: list[_Column] = []
    cursor.take(b"{")
    while True:
        key = cursor.take_text()
        cursor.take(b":")
        if cursor.peek() != b"[":
            found = key.decode("utf-8", "replace")
            raise cursor.refuse(f"{found} is not a list; expected an array of objects or an object of lists")
        offset, line = cursor.offset, cursor.line
        size = sum(1 for _ in cursor.iterate_elements())
        columns.append(_Column(key, offset, line, size))
        if len(columns) > _MOST_COLUMNS:
            raise cursor.refuse(f"the object has more than {_MOST_COLUMNS} lists; expected at most one for each column")
        if cursor.take(b",}") == b"}":
            break
    _expect_end(cursor, "object")
    names = [_read_name(column, cursor) for column in columns]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise cursor.refuse(f"the object has two lists {doubled[0]!r}; expected each name once")
    if len({column.size for column in columns}) > 1:
        sizes = ", ".join(f"{name!r} has {column.size}" for name, column in zip(names, columns, strict=True))
        raise cursor.refuse(f"the lists have different lengths: {sizes}; expected one length for all")
    return columns


def _read_name(column: _Column, cursor: JsonCursor) -> str:
    try:
        return column.name
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise cursor.refuse(f"{column.key.decode('utf-8', 'replace')} is not a name in UTF-8") from None


def _read_columns(columns: list[_Column], source: DatasetSource) -> Iterator[Row]:
    with ExitStack() as files:
        cursors = []
        for column in columns:
            stream = files.enter_context(open_text(source))
            if not _skip(stream, column.offset):
                raise ConfigError(
                    f"{_locate(source)}: the file became shorter while it was read; expected a file that stays the same"
                )
            cursors.append(JsonCursor(stream, _locate(source), offset=column.offset, line=column.line))
        for number, elements in enumerate(zip(*(cursor.iterate_elements() for cursor in cursors), strict=True)):
            pairs = [column.key + b":" + element.content for column, element in zip(columns, elements, strict=True)]
            yield _fill(Row(number, f"row {number + 1}", b"{" + b",".join(pairs) + b"}"), source)


def _skip(stream: BufferedReader, size: int) -> bool:
    """Move past bytes at the beginning of a file. Return whether the file has them."""
    if stream.seekable():
        stream.seek(size)
        return True
    while size > 0 and (block := stream.read(min(size, _SKIP_BYTES))):
        size -= len(block)
    return size == 0


def _fill(row: Row, source: DatasetSource) -> Row:
    try:
        fill_row(row, source)
    except SampleError as error:
        row.fault = find_fault(source, row.line, error)
    return row


def _expect_end(cursor: JsonCursor, kind: str) -> None:
    if cursor.peek():
        raise cursor.refuse(f"found more text after the end of the {kind}; expected one {kind}")
