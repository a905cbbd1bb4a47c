"""Outcomes as Parquet: one schema for the parts and for ``results.parquet``.

A part is encoded in memory and written with one put. Its key-value metadata contains ``run_id``, ``chunk``, ``counts`` (JSON, the
number of outcomes by status) and a ``crc32`` of these. Parts of earlier versions also contain ``index_kinds``, which is ignored.
A part without answers to earlier turns does not have the column ``turns``. Earlier versions can read such a part.
"""

import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any, get_args

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import IntegrityError
from common.records import Outcome, Status

_STATUSES = get_args(Status)
_TIMES = ("started_at", "finished_at")
_MICROSECONDS = 1_000_000  # per second

# In a file as small as a part, dictionaries, statistics and Arrow's copy of the schema cost more than they save. Snappy is as
# fast as no compression, and every reader supports it. zstd takes twice as long for pages of this size.
_PART_FORMAT = {
    "compression": "snappy",
    "use_dictionary": False,
    "write_statistics": False,
    "write_page_checksum": True,
    "store_schema": False,
}


def _required(name: str, kind: Any) -> Any:
    return pa.field(name, kind, nullable=False)


_TEXTS = pa.list_(_required("element", pa.string()))
_ATTEMPT = pa.struct(
    [
        _required("number", pa.int32()),
        _required("response", pa.string()),
        _required("violations", _TEXTS),
        pa.field("finish_reason", pa.string()),
        pa.field("temperature", pa.float64()),
        pa.field("seed", pa.int64()),
        pa.field("latency_s", pa.float64()),
    ]
)
_TURN = pa.struct(
    [
        _required("number", pa.int32()),
        _required("response", pa.string()),
        _required("prediction", pa.string()),
        pa.field("target", pa.string()),
        _required("attempts", pa.int32()),
        pa.field("finish_reason", pa.string()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("output_tokens", pa.int64()),
        pa.field("temperature", pa.float64()),
        pa.field("seed", pa.int64()),
        pa.field("latency_s", pa.float64()),
    ]
)

OUTCOME_SCHEMA = pa.schema(
    [
        _required("sample_id", pa.string()),
        _required("dataset", pa.string()),
        _required("index", pa.string()),
        _required("model", pa.string()),
        _required("status", pa.string()),
        pa.field("prediction", pa.string()),
        pa.field("answer", pa.string()),
        _required("target", _TEXTS),
        pa.field("response", pa.string()),
        _required("attempts", pa.list_(_required("element", _ATTEMPT))),
        _required("turns", pa.list_(_required("element", _TURN))),
        pa.field("error_code", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("output_tokens", pa.int64()),
        _required("truncated", pa.bool_()),
        pa.field("video_input", pa.string()),
        pa.field("worker", pa.string()),
        pa.field("started_at", pa.timestamp("us", tz="UTC")),
        pa.field("finished_at", pa.timestamp("us", tz="UTC")),
        _required("metadata", pa.string()),
    ]
)
# Columns that a part may lack, in the order of the schema: parts of earlier versions, and parts without answers to earlier turns.
_OPTIONAL = ("turns", "video_input")


def to_table(outcomes: Sequence[Outcome]) -> Any:
    """Return the outcomes, in order, as a ``pyarrow.Table`` of ``OUTCOME_SCHEMA``.

    Characters that UTF-8 cannot encode (lone surrogates) become U+FFFD. Times are rounded to microseconds. Numbers that are
    not finite, such as NaN, become null in columns and in ``metadata``.
    """
    return pa.Table.from_arrays([_build_column(field, outcomes) for field in OUTCOME_SCHEMA], schema=OUTCOME_SCHEMA)


def encode_part(run_id: str, chunk: int, outcomes: Sequence[Outcome]) -> bytes:
    """Return the outcomes of a finished chunk as a Parquet file, with a checksum of every page and of the metadata.

    Every ``seed`` must fit into a signed 64-bit integer.
    """
    sink = pa.BufferOutputStream()
    table = to_table(outcomes)
    if not any(outcome.turns for outcome in outcomes):
        table = table.drop_columns("turns")
    with pq.ParquetWriter(sink, table.schema, **_PART_FORMAT) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(_write_notes(run_id, chunk, outcomes))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def decode_part(content: bytes, *, run_id: str, chunk: int) -> tuple[Outcome, ...]:
    """Return the outcomes of a part in the order in which they were encoded.

    Raises ``IntegrityError`` with the run and chunk if the object is damaged, belongs to another chunk, or does not match the
    counts in its metadata.
    """
    where = f"part of run {run_id}, chunk {chunk}"
    try:
        part = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True, pre_buffer=False)
        notes = _read_notes(part, where)
        if (notes["run_id"], notes["chunk"]) != (run_id, str(chunk)):
            raise IntegrityError(f"{where}: the object belongs to run {notes['run_id']}, chunk {notes['chunk']}")
        table = _add_missing(part.read(use_threads=False))
        if not table.schema.equals(OUTCOME_SCHEMA):
            raise IntegrityError(f"{where}: its columns do not match the outcome schema; found {', '.join(table.schema.names)}")
        outcomes = _to_outcomes(table)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise IntegrityError(f"{where}: the object cannot be read and may be damaged: {error}") from error
    if json.loads(notes["counts"]) != _count_statuses(outcomes):
        raise IntegrityError(f"{where}: its counts {notes['counts']} do not match its {len(outcomes)} rows")
    return outcomes


def _add_missing(table: Any) -> Any:
    """Return the table with all optional columns. The values of a missing column are empty lists, or null."""
    for name in (name for name in _OPTIONAL if name not in table.column_names):
        field = OUTCOME_SCHEMA.field(name)
        values = pa.nulls(table.num_rows, field.type) if field.nullable else pa.array([[]] * table.num_rows, field.type)
        table = table.add_column(OUTCOME_SCHEMA.get_field_index(name), field, values)
    return table


def _write_notes(run_id: str, chunk: int, outcomes: Sequence[Outcome]) -> dict[str, str]:
    notes = {
        "run_id": run_id,
        "chunk": str(chunk),
        "counts": json.dumps(_count_statuses(outcomes)),
    }
    return {**notes, "crc32": str(_checksum(notes))}


def _read_notes(part: Any, where: str) -> dict[str, str]:
    notes = {key.decode(): value.decode() for key, value in (part.metadata.metadata or {}).items()}
    noted = notes.pop("crc32", None)
    if noted != str(_checksum(notes)):
        raise IntegrityError(f"{where}: the checksum of the object's metadata does not match; found {notes}")
    return notes


def _checksum(notes: dict[str, str]) -> int:
    """Return a checksum of the notes. Parquet has checksums for pages, but not for key-value metadata."""
    return zlib.crc32(json.dumps(notes, sort_keys=True).encode())


def _count_statuses(outcomes: Iterable[Outcome]) -> dict[str, int]:
    found = Counter(outcome.status for outcome in outcomes)
    return {status: found[status] for status in _STATUSES}


def _build_column(field: Any, outcomes: Sequence[Outcome]) -> Any:
    values = list(map(attrgetter(field.name), outcomes))
    if field.name == "metadata":
        return _build_metadata(values, field.type)
    build = next((build for fits, build in _BUILDERS if fits(field.type)), _build_plain)
    return build(values, field.type)


def _build_plain(values: list[Any], kind: Any) -> Any:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        return pa.array([value and _replace_surrogates(value) for value in values], kind)


def _build_times(values: list[float | None], kind: Any) -> Any:
    return pa.array([None if value is None or not math.isfinite(value) else round(value * _MICROSECONDS) for value in values], kind)


def _build_finite(values: list[float], kind: Any) -> Any:
    return pa.array([value if math.isfinite(value) else None for value in values], kind)


def _build_lists(values: list[tuple[Any, ...]], kind: Any) -> Any:
    """Build a list array from concatenated elements and offsets. Lists of Python objects would take several times as long."""
    offsets = pa.array(accumulate(map(len, values), initial=0), pa.int32())
    elements = list(chain.from_iterable(values))
    build = _build_structs if pa.types.is_struct(kind.value_type) else _build_plain
    return pa.ListArray.from_arrays(offsets, build(elements, kind.value_type), type=kind)


def _build_structs(records: Sequence[Any], kind: Any) -> Any:
    return pa.StructArray.from_arrays([_build_column(field, records) for field in kind], fields=list(kind))


def _build_metadata(values: list[dict[str, Any]], kind: Any) -> Any:
    """Encode as JSON. msgspec writes non-finite numbers as null; ``str`` converts other types to text."""
    try:
        return pa.array([msgspec.json.encode(value, enc_hook=str) for value in values], kind)
    except UnicodeEncodeError:
        return pa.array([msgspec.json.encode(_clean(value), enc_hook=str) for value in values], kind)


_BUILDERS: tuple[tuple[Callable[[Any], bool], Callable[[list[Any], Any], Any]], ...] = (
    (pa.types.is_list, _build_lists),
    (pa.types.is_floating, _build_finite),
    (pa.types.is_timestamp, _build_times),
)


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {_clean(key): _clean(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(entry) for entry in value]
    return _replace_surrogates(value) if isinstance(value, str) else value


def _replace_surrogates(text: str) -> str:
    """Join surrogate pairs into their character and replace each lone surrogate with U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _to_outcomes(table: Any) -> tuple[Outcome, ...]:
    columns = {name: table[name] for name in table.schema.names}
    values = {
        **{name: column.to_pylist() for name, column in columns.items() if name not in _TIMES},
        **{name: _to_seconds(columns[name]) for name in _TIMES},
    }
    values["metadata"] = list(map(json.loads, values["metadata"]))
    for name in ("attempts", "turns"):
        values[name] = [list(map(_drop_nulls, records)) for records in values[name]]
    rows = zip(*values.values(), strict=True)
    return tuple(Outcome.model_validate(dict(zip(values, row, strict=True))) for row in rows)


def _to_seconds(column: Any) -> list[float | None]:
    """Convert through integer microseconds, because ``datetime.timestamp()`` would round again."""
    return [None if value is None else value / _MICROSECONDS for value in column.cast(pa.int64()).to_pylist()]


def _drop_nulls(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value is not None}
