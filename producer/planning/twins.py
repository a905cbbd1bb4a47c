"""The twins that the shuffle finds. A file on a local disk keeps them until the plan is written."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from common.records import Twin
from producer.planning.long_lines import LongLine, read_line

_FIELDS = tuple(Twin.model_fields)
_HELD_BYTES = 4 * 2**20


class TwinBlock(NamedTuple):
    """The place of a block in the file. A block contains twins of one sample in row order, one JSON object per line."""

    offset: int
    length: int


class TwinFile:
    """A file with blocks of twins. ``open_twin_file`` creates it.

    Memory holds up to 4 MiB of twins, and the places of the blocks.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._end = 0
        self._held: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self._held_bytes = 0
        self._media: dict[bytes, list[dict[str, Any]]] = {}
        self._blocks: defaultdict[bytes, list[TwinBlock]] = defaultdict(list)

    def add(self, request: bytes, sample: bytes | LongLine, row: bytes | LongLine) -> None:
        """Add a row with the same request as a sample. Both are lines of JSON. Editing JSON is faster than validating records."""
        if request not in self._media:
            self._media[request] = _find_media(json.loads(read_line(sample)))
        line = encode_line(_to_twin(json.loads(read_line(row)), self._media[request]))
        self._held[request].append(line)
        self._held_bytes += len(line)
        if self._held_bytes >= _HELD_BYTES:
            self._write()

    def take_blocks(self) -> dict[bytes, list[TwinBlock]]:
        """Return the blocks of each request that ``add`` has got since the last call."""
        self._write()
        blocks, self._blocks = self._blocks, defaultdict(list)
        self._media.clear()
        return blocks

    def read(self, block: TwinBlock) -> bytes:
        """Return the lines of a block."""
        self._stream.seek(block.offset)
        return self._stream.read(block.length)

    def _write(self) -> None:
        self._stream.seek(self._end)
        for request, held in self._held.items():
            lines = b"".join(held)
            self._blocks[request].append(TwinBlock(self._end, len(lines)))
            self._stream.write(lines)
            self._end += len(lines)
        self._held.clear()
        self._held_bytes = 0


@contextmanager
def open_twin_file(folder: Path) -> Iterator[TwinFile]:
    """Yield a file in the folder. It is deleted when the block ends."""
    with tempfile.TemporaryFile(dir=folder) as stream:
        yield TwinFile(stream)


def encode_line(record: dict[str, Any]) -> bytes:
    """Return a record as a line of JSON."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _find_media(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the media of a row, or nothing if some are embedded, because their content is not stored again."""
    media: list[dict[str, Any]] = row.get("media", [])
    return [] if any("data" in one for one in media) else media


def _to_twin(row: dict[str, Any], media: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the twin of a row. ``media`` are those of its sample."""
    twin = {"row": 0} | {name: row[name] for name in _FIELDS if name in row and name != "media"}
    found = _find_media(row)
    return twin | ({"media": found} if found and found != media else {})
