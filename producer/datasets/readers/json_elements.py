"""Split a JSON array into the bytes of its elements without decoding them. Memory holds one element.

A parser such as ijson stops at the first invalid byte of a file, replaces lone surrogates and hides duplicate keys. This module
keeps the bytes of each element. So an invalid row does not affect the other rows, and a large image in the file can be referenced
as a byte range.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from common.errors import ConfigError

ELEMENT_LIMIT_BYTES = 256 * 2**20
_BLOCK_BYTES = 256 * 1024
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_TOKEN = re.compile(_TEXT.pattern + rb'|["\[\]{},]', re.DOTALL)
# An element without nested lists and objects, up to the comma or bracket after it. One match finds all of its tokens.
_FLAT = re.compile(
    rb'(?:\{[^"\[\]{}]*+(?:' + _TEXT.pattern + rb'[^"\[\]{}]*+)*+\}|' + _TEXT.pattern + rb'|[^"\[\]{},]++)[ \t\r\n]*(?=[,\]])',
    re.DOTALL,
)
_SPACE = re.compile(rb"[ \t\r\n]*")
_CLOSING = {b"[": b"]", b"{": b"}"}


class Element(NamedTuple):
    """One element: the number of its first line (from 1), its offset in the file, and its bytes without surrounding space."""

    line: int
    offset: int
    content: bytes


class JsonCursor:
    """A position in a JSON file.

    Every error message begins with ``where``. ``offset`` and ``line`` are the stream's current position in its file.
    """

    def __init__(self, stream: BinaryIO, where: str, *, offset: int = 0, line: int = 1) -> None:
        self._stream = stream
        self._where = where
        self._window = b""  # the bytes around the cursor
        self._window_offset = offset
        self._at = 0  # the cursor in the window
        self._counted = 0  # the place in the window up to which lines are counted
        self._line = line

    @property
    def offset(self) -> int:
        """Return the offset of the cursor in the file."""
        return self._window_offset + self._at

    @property
    def line(self) -> int:
        """Return the line of the cursor, from 1."""
        self._line += self._window.count(b"\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def peek(self) -> bytes:
        """Skip space and return the next byte, or ``b""`` at the end of the file."""
        while True:
            self._at = _find_space_end(self._window, self._at)
            if self._at < len(self._window):
                return self._window[self._at : self._at + 1]
            if not self._read_more():
                return b""

    def take(self, expected: bytes) -> bytes:
        """Move past one of the ``expected`` bytes and return it. Raises ``ConfigError`` for another byte."""
        found = self.peek()
        if not found or found not in expected:
            raise self.refuse(f"found {self._show()}; expected {' or '.join(map(chr, expected))}")
        self._at += 1
        return found

    def take_text(self) -> bytes:
        """Skip a text, such as a key, and return its bytes with the quotes. Raises ``ConfigError`` for other JSON."""
        if self.peek() != b'"':
            raise self.refuse(f'found {self._show()}; expected a name in "quotes"')
        while (match := _TEXT.match(self._window, self._at)) is None:
            if not self._read_more():
                raise self.refuse("the file ends in a name")
        self._at = match.end()
        return match[0]

    def iterate_elements(self) -> Iterator[Element]:
        """Yield the elements of the array at the cursor, and move past the array.

        Raises ``ConfigError`` if the array is not closed, because the rows after the damaged place would be lost.
        """
        self.take(b"[")
        is_last = self.peek() == b"]"
        if is_last:
            self._at += 1
        number = 0
        while not is_last:
            self.peek()
            line, offset, number = self.line, self.offset, number + 1
            end = self._find_end(number)
            is_last = self._window.startswith(b"]", end)
            yield Element(line, offset, self._window[self._at : end].rstrip(b" \t\r\n"))
            self._at = end + 1

    def refuse(self, found: str) -> ConfigError:
        """Return the error for a fault at the cursor."""
        return ConfigError(f"{self._where}: line {self.line}: {found}; check that the file is complete JSON")

    def _find_end(self, number: int) -> int:
        """Return the end of element ``number``, which begins at the cursor: the place of the comma or bracket in the window."""
        if flat := _FLAT.match(self._window, self._at):
            return flat.end()
        size = 0  # the number of bytes of the element that are known to be whole tokens
        expected: list[bytes] = []
        while True:
            for token in _TOKEN.finditer(self._window, self._at + size):
                found = token[0]
                if found == b'"':
                    break
                if not expected and found in b",]":
                    return token.start()
                if found in _CLOSING:
                    expected.append(_CLOSING[found])
                elif found in b"]}" and (not expected or expected.pop() != found):
                    raise self.refuse(f"row {number} begins here and has a {found.decode()} too many")
                size = token.end() - self._at
            if not self._read_more():
                raise self.refuse(f"row {number} begins here, and the file ends before the row or the array does")
            if len(self._window) > ELEMENT_LIMIT_BYTES + _BLOCK_BYTES:
                raise self.refuse(f"row {number} begins here and is longer than {ELEMENT_LIMIT_BYTES:,} bytes")

    def _read_more(self) -> bool:
        """Read more bytes into the window, and drop the bytes before the cursor. Return whether the file had more bytes."""
        kept = self._window[self._at :]
        # The window doubles, so that a large element is searched and copied only a few times.
        block = self._stream.read(max(_BLOCK_BYTES, min(len(kept), ELEMENT_LIMIT_BYTES)))
        self._line, self._counted = self.line, 0  # count the lines before the window changes
        self._window_offset += self._at
        self._window, self._at = kept + block, 0
        return bool(block)

    def _show(self) -> str:
        return repr(self._window[self._at : self._at + 20].decode("utf-8", "replace")) if self.peek() else "the end of the file"


def _find_space_end(window: bytes, at: int) -> int:
    match = _SPACE.match(window, at)
    return at if match is None else match.end()
