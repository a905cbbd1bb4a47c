"""Read several files as one dataset: their rows in the order of the files, with numbers that continue.

``readers`` threads read up to that many files side by side into buffers of limited size. Files on a storage with long waits gain
from it; on a local disk, converting the rows takes longer than reading them. The order of the rows does not depend on it.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from common.spec.models import DatasetSource
from producer.datasets.rows import Row, plan_reading

Reader = Callable[[DatasetSource], Iterator[Row]]

_BUFFER_BYTES = 64 * 2**20  # of the rows of one file that are read ahead
_BLOCK_BYTES = 2**18  # of the rows that a thread hands over at once
_ROW_BYTES = 1024  # of the objects of a row besides its content


def split_source(source: DatasetSource) -> list[DatasetSource]:
    """Return one source for each file of a source, with the path of that file."""
    if not source.files:
        return [source]
    return [source.model_copy(update={"path": path, "files": ()}) for path in source.files]


def read_files(reader: Reader, source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of all files of a source in order."""
    sources = split_source(source)
    is_single = source.readers == 1 or len(sources) == 1
    streams = map(reader, sources) if is_single else _read_side_by_side(reader, sources, source.readers)
    number = 0
    for one, rows in zip(sources, streams, strict=True):
        reading = plan_reading(one)
        for row in rows:
            row.number, row.reading = number, reading
            yield row
            number += 1


def _read_side_by_side(reader: Reader, sources: list[DatasetSource], most: int) -> Iterator[Iterator[Row]]:
    """Yield the rows of each file. While they are consumed, threads read the next files."""
    started: deque[_FileAhead] = deque()
    waiting = iter(sources)
    try:
        while True:
            for one in islice(waiting, most - len(started)):
                started.append(_FileAhead(reader, one))
            if not started:
                return
            yield started[0].iterate_rows()
            started.popleft()
    finally:
        for file in started:
            file.stop()


class _FileAhead:
    """A file that a thread reads into a buffer of limited size."""

    def __init__(self, reader: Reader, source: DatasetSource) -> None:
        self._rows: deque[Row] = deque()
        self._held_bytes = 0
        self._is_stopped = self._is_done = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(reader, source), name=f"read {source.path}", daemon=True).start()

    def iterate_rows(self) -> Iterator[Row]:
        """Yield the rows of the file. Raise the error that ended the thread, after the rows before it."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._rows or self._is_done)
                rows, self._rows, self._held_bytes = self._rows, deque(), 0
                self._changed.notify_all()
            if not rows:
                break
            yield from rows
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Let the thread end before the end of the file."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def _read(self, reader: Reader, source: DatasetSource) -> None:
        block, block_bytes = list[Row](), 0
        try:
            for row in reader(source):
                block.append(row)
                block_bytes += len(row.content) + _ROW_BYTES
                if block_bytes >= _BLOCK_BYTES:
                    if not self._put(block, block_bytes):
                        return
                    block, block_bytes = [], 0
            self._put(block, block_bytes)
        except BaseException as error:  # noqa: BLE001  the consumer raises it
            self._put(block, block_bytes)
            self._error = error
        finally:
            with self._changed:
                self._is_done = True
                self._changed.notify_all()

    def _put(self, rows: list[Row], size_bytes: int) -> bool:
        """Add rows to the buffer when it has room. Return whether the consumer still wants rows."""
        with self._changed:
            self._changed.wait_for(lambda: self._held_bytes < _BUFFER_BYTES or self._is_stopped)
            self._rows.extend(rows)
            self._held_bytes += size_bytes
            self._changed.notify_all()
            return not self._is_stopped
