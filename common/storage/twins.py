"""The twins of a plan: rows with the same request as a sample. They have an object of their own, which workers never read.

The object is a sequence of blocks in plan order. A block is a JSON line, ``{"position", "length", "crc32"}``, and ``length`` bytes
with one twin per line. ``position`` is the plan position of the sample of these twins, and the checksum includes it. A sample with
many twins has several blocks.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from common.errors import IntegrityError
from common.records import Plan, Twin
from common.storage.keys import twins_key
from common.storage.plan_index import WRITE_AGAIN
from common.storage.store import MissingObject, Store, Writer

_READ_BYTES = 4 * 2**20


class TwinHeader(msgspec.Struct):
    """The line before a block of twins."""

    position: int
    length: int
    crc32: int


class TwinsWriter:
    """A writer of the twins of a plan. ``length`` is the size of the object in bytes. Without twins, there is no object."""

    def __init__(self, open_writer: Callable[[], Writer]) -> None:
        self._open_writer = open_writer
        self._writer: Writer | None = None
        self.length = 0

    def write(self, position: int, lines: bytes) -> None:
        """Append twins of the sample at a plan position: one JSON object per line."""
        self._writer = self._writer or self._open_writer()
        block = msgspec.json.encode(TwinHeader(position, len(lines), _checksum(position, lines))) + b"\n" + lines
        self._writer.write(block)
        self.length += len(block)


@contextmanager
def open_twins(store: Store, run_id: str) -> Iterator[TwinsWriter]:
    """Write the twins of a plan. When the block ends, the object is complete."""
    with ExitStack() as stack:
        yield TwinsWriter(lambda: stack.enter_context(store.open_writer(twins_key(run_id))))


def read_twins(store: Store, plan: Plan) -> Iterator[tuple[int, Twin]]:
    """Yield the twins of a plan, each with the plan position of its sample, in ascending order. Memory holds one block.

    Raises ``IntegrityError`` if the stored bytes differ from the planned ones.
    """
    key = twins_key(plan.run_id)
    with io.BufferedReader(_Object(store, key, plan.twins_bytes or 0), _READ_BYTES) as stream:
        while line := stream.readline():
            try:
                header = msgspec.json.decode(line, type=TwinHeader)
            except msgspec.DecodeError as error:
                raise IntegrityError(f"{key} of a planned run is damaged ({error}); {WRITE_AGAIN}") from error
            lines = stream.read(min(header.length, plan.twins_bytes or 0))
            if _checksum(header.position, lines) != header.crc32:
                raise IntegrityError(f"{key} of a planned run is damaged (checksum differs); {WRITE_AGAIN}")
            for twin in lines.splitlines():
                yield header.position, Twin.model_validate_json(twin)


def _checksum(position: int, lines: bytes) -> int:
    return zlib.crc32(lines, position % 2**32)


def check_twins(store: Store, plan: Plan) -> None:
    """Raise ``IntegrityError`` if the twins of a plan are missing or cut short."""
    if plan.twins_bytes:
        _read_range(store, twins_key(plan.run_id), plan.twins_bytes - 1, 1)


class _Object(io.RawIOBase):
    """An object of the store as a stream of bytes."""

    def __init__(self, store: Store, key: str, length: int) -> None:
        self._store, self._key = store, key
        self._at, self._length = 0, length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the stub allows more types than the caller passes
        content = _read_range(self._store, self._key, self._at, min(len(buffer), self._length - self._at))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _read_range(store: Store, key: str, offset: int, length: int) -> bytes:
    try:
        return store.get_range(key, offset, length)
    except (MissingObject, IntegrityError) as error:
        raise IntegrityError(f"{key} of a planned run is missing or cut short ({error}); {WRITE_AGAIN}") from error
