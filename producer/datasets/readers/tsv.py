"""Read tab- or comma-separated records as bytes, with the quoting rules of RFC 4180, Python's csv module and pandas.

A quote is special only at the beginning of a cell. Inside a quoted cell, two quotes stand for one, and delimiters and line
endings are text. Text between the closing quote and the next delimiter belongs to the cell. Only the size of a whole record is
limited. This module does not decode the bytes, so that the byte range of each cell is known.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

# Without a limit, an unclosed quote would read the rest of the file into memory as one cell.
RECORD_LIMIT_BYTES = 256 * 2**20

Span = tuple[int, int]


class Record(NamedTuple):
    """One record of a file.

    - ``line`` is the number of the record's first line, from 1.
    - ``offset`` is the position of the record in the file, in bytes.
    - ``content`` is the bytes of the record without the line ending.
    - ``is_whole`` is false for a line with an unclosed quote. That line is one record, and reading continues on the next line.
    """

    line: int
    offset: int
    content: bytes
    is_whole: bool


def read_records(stream: BinaryIO, delimiter: bytes = b"\t", *, offset: int = 0) -> Iterator[Record]:
    """Yield the records from the current position of ``stream``, which is ``offset``. Blank lines are skipped."""
    line = 1
    ahead: deque[bytes] = deque()  # the lines after a line with an unclosed quote
    is_rest_open = False  # whether a quote before the lines ahead stays open up to the end of the file

    def read_line() -> bytes:
        return ahead.popleft() if ahead else stream.readline(RECORD_LIMIT_BYTES)

    while first := read_line():
        if ahead and is_rest_open:  # reading the same lines for each unclosed quote would take hours
            lines, is_whole = [first], not _ends_in_quotes(first, delimiter, is_open=False)
        else:
            lines, is_whole = _read_lines_of_record(read_line, first, delimiter)
            is_rest_open = not is_whole and sum(map(len, lines)) < RECORD_LIMIT_BYTES
            if not is_whole:
                ahead.extendleft(reversed(lines[1:]))
                lines = [first]
        content = b"".join(lines)
        if stripped := content.removesuffix(b"\n").removesuffix(b"\r"):
            yield Record(line, offset, stripped, is_whole)
        line += len(lines)
        offset += len(content)


def split_record(content: bytes, delimiter: bytes = b"\t") -> list[Span]:
    """Return the (start, end) of each cell in a record, including its quotes."""
    spans: list[Span] = []
    start = 0
    if b'"' not in content:
        for cell in content.split(delimiter):
            spans.append((start, end := start + len(cell)))
            start = end + 1
        return spans
    while True:
        text_from = start
        if content.startswith(b'"', start):
            closing = _find_closing_quote(content, start + 1)
            text_from = len(content) if closing < 0 else closing + 1
        next_cell = content.find(delimiter, text_from)
        if next_cell < 0:
            spans.append((start, len(content)))
            return spans
        spans.append((start, next_cell))
        start = next_cell + 1


def read_cell(content: bytes, span: Span) -> bytes:
    """Return the text of a cell without its enclosing quotes."""
    start, end = span
    if not content.startswith(b'"', start, end):
        return content[start:end]
    closing = _find_closing_quote(content, start + 1)
    closing = end if closing < 0 else closing
    return content[start + 1 : closing].replace(b'""', b'"') + content[closing + 1 : end]


def _read_lines_of_record(read_line: Callable[[], bytes], first: bytes, delimiter: bytes) -> tuple[list[bytes], bool]:
    """Return the lines of a record, and whether its last quote is closed."""
    lines, size, is_open = [first], len(first), _ends_in_quotes(first, delimiter, is_open=False)
    while is_open and size < RECORD_LIMIT_BYTES and (line := read_line()):
        lines.append(line)
        size += len(line)
        is_open = _ends_in_quotes(line, delimiter, is_open=True)
    return lines, not is_open


def _ends_in_quotes(line: bytes, delimiter: bytes, *, is_open: bool) -> bool:
    """Return whether a line ends inside a quoted cell. ``is_open`` states whether it begins inside one."""
    at = 0
    if not is_open and line.startswith(b'"'):
        is_open, at = True, 1
    while True:
        if is_open:
            closing = _find_closing_quote(line, at)
            if closing < 0:
                return True
            at = closing + 1
        opening = line.find(delimiter + b'"', at)
        if opening < 0:
            return False
        is_open, at = True, opening + 2


def _find_closing_quote(content: bytes, at: int) -> int:
    """Return the position of the quote that closes the quoted text at ``at``, or -1."""
    while (quote := content.find(b'"', at)) >= 0 and content.startswith(b'"', quote + 1):
        at = quote + 2
    return quote
