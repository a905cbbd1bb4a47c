"""Read Parquet files, and Arrow files (Feather) and streams. Nested columns become lists and dicts. Binary cells stay bytes.

NaN and infinity are converted as in JSON lines. Memory holds a few rows of a Parquet file, or one record batch of an Arrow file.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import msgspec
import pyarrow as pa
from pyarrow import parquet

from common.errors import ConfigError, explain_unreadable
from common.spec.models import DatasetSource
from common.storage.addresses import is_remote
from common.storage.files import open_file
from common.storage.remote_files import RemoteFile
from producer.datasets.readers.jsonl import mend_value
from producer.datasets.registry import register_reader
from producer.datasets.rows import Reading, Row, find_fault, plan_reading
from producer.datasets.values.arrow import Damage, convert_rows

_BATCH_BYTES = 8 * 2**20
_BUFFER_BYTES = 2**20
_MOST_ROWS = 1024  # of a batch
_FILE = b"ARROW1"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_PACKER = msgspec.msgpack.Encoder()


@register_reader("parquet", endings=(".parquet", ".pq"))
def read_parquet(source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of a Parquet file. Raises ``ConfigError`` if it cannot be read."""
    with _explain_damage(source, "Parquet"), open_parquet(source.path) as file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        if (found := sum(group.num_rows for group in groups)) != file.metadata.num_rows:
            raise pa.ArrowInvalid(f"the row groups have {found} rows and the footer says {file.metadata.num_rows}")
        widest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=0)
        # Arrow's allocator keeps freed pages for each thread. With pages of 100 MB, threads add 100 MB and do not save time here.
        batches = file.iter_batches(_limit_rows(widest), use_threads=False)
        yield from _read_batches(batches, file.schema_arrow, source)


def open_parquet(path: str) -> parquet.ParquetFile:
    """Open a Parquet file. The pages of an object are read with requests of ``_BUFFER_BYTES``."""
    place = pa.PythonFile(RemoteFile(path), mode="r") if is_remote(path) else path
    # With a buffer, pyarrow reads pages one after another. Without it, pyarrow reads a whole row group.
    return parquet.ParquetFile(place, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)


@register_reader("arrow", endings=(".arrow", ".feather", ".ipc"))
def read_arrow(source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of an Arrow file or stream. Raises ``ConfigError`` if it cannot be read."""
    with _explain_damage(source, "Arrow"), closing(_open_arrow(source.path)) as stream:
        if stream.read(len(_FILE)) == _FILE:
            file = pa.ipc.open_file(stream)
            batches = (file.get_batch(number) for number in range(file.num_record_batches))
            yield from _read_batches(batches, file.schema, source)
        else:
            stream.seek(max(stream.size() - len(_END_OF_STREAM), 0))
            is_complete = stream.read() == _END_OF_STREAM
            stream.seek(0)
            batches = pa.ipc.open_stream(stream)
            yield from _read_batches(batches, batches.schema, source)
            if not is_complete:
                raise pa.ArrowInvalid("the end of the stream is missing")


def _open_arrow(path: str) -> pa.NativeFile:
    return pa.PythonFile(open_file(path), mode="r") if is_remote(path) else pa.memory_map(path)


@contextmanager
def _explain_damage(source: DatasetSource, kind: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        message = (
            f"dataset {source.name!r}: path: {source.path} cannot be read as {kind} ({reason}); "
            f"expected a complete {kind} file: copy it again, or give its format"
        )
        raise (explain_unreadable(error, message) if isinstance(error, OSError) else ConfigError(message)) from error


def _limit_rows(row_bytes: float) -> int:
    return max(1, min(_MOST_ROWS, int(_BATCH_BYTES / max(row_bytes, 1))))


def _read_batches(batches: Iterator[pa.RecordBatch], schema: pa.Schema, source: DatasetSource) -> Iterator[Row]:
    names = tuple(schema.names)
    if doubled := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ConfigError(f"dataset {source.name!r}: {source.path}: two columns are called {doubled[0]!r}; expected one")
    reading = plan_reading(source)
    number = 0
    for batch in batches:
        batch.validate()
        pa.default_memory_pool().release_unused()  # Arrow keeps freed pages for a while, and a page can have 100 MB
        step = _limit_rows(batch.nbytes / max(batch.num_rows, 1))
        for start in range(0, batch.num_rows, step):
            for fields, damage in convert_rows(batch.slice(start, step)):
                yield _make_row(number, fields, damage, names, reading)
                number += 1


def _make_row(number: int, fields: dict[str, Any], damage: Damage | None, names: tuple[str, ...], reading: Reading) -> Row:
    fields = {name: mend_value(value, keeps_numbers=name in reading.ours) for name, value in fields.items()}
    row = Row(number, f"row {number + 1}", _PACKER.encode(fields), fields=fields, columns=names)
    if damage:
        row.fault = find_fault(reading.source, row.line, damage.error, damage.column)
    return row
