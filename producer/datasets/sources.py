"""Read several files as one dataset. Rows keep the order of the files, and row numbers continue from file to file.

With ``readers: N``, N threads read up to N files at the same time into buffers of limited size. This saves time on storage with a
high latency, but not on a local disk, where converting the rows takes longer than reading them. The order of the rows does not
depend on ``readers``.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from common.spec.models import DatasetSource
from producer.datasets.rows import Row, plan_reading

Reader = Callable[[DatasetSource], Iterator[Row]]

_BUFFER_BYTES = 64 * 2**20  # the size of the rows of one file that are read ahead
_BLOCK_BYTES = 2**18  # the size of the rows that a thread adds to the buffer together
_ROW_BYTES = 1024  # the size of a row's Python objects, without its content


def split_source(source: DatasetSource) -> list[DatasetSource]:
    """Return one source for each file of a source, with the path of that file."""
    if not source.files:
        return [source]
    return [source.model_copy(update={"path": path.rstrip("/"), "files": ()}) for path in source.files]


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
        """Yield the rows of the file. After the last row, raise the error that ended the thread, if there was one."""
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
        """Stop the thread before it reaches the end of the file."""
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
        """Wait until the buffer has room, and add the rows. Return whether the consumer still reads rows."""
        with self._changed:
            self._changed.wait_for(lambda: self._held_bytes < _BUFFER_BYTES or self._is_stopped)
            self._rows.extend(rows)
            self._held_bytes += size_bytes
            self._changed.notify_all()
            return not self._is_stopped
