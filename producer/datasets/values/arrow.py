"""Convert the values of Arrow columns to Python. Nested values become lists and dicts. Bytes stay bytes.

Times, durations and decimals become text without losing digits, because JSON does not have these types.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from common.errors import SampleError

_UNREADABLE = (pa.ArrowException, ValueError, OverflowError, KeyError, TypeError)  # TypeError: a map with objects as keys


class Damage(NamedTuple):
    """The first column of a row that cannot be read, and the error."""

    column: str
    error: SampleError


def convert_rows(batch: pa.RecordBatch) -> Iterator[tuple[dict[str, Any], Damage | None]]:
    """Yield the values of each row that can be read, and its damage, or None."""
    names = batch.schema.names
    try:
        columns = [_convert_column(column) for column in batch.columns]
    except _UNREADABLE:
        yield from map(_convert_row, map(batch.slice, range(batch.num_rows), [1] * batch.num_rows))
    else:
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True)), None


def _convert_row(batch: pa.RecordBatch) -> tuple[dict[str, Any], Damage | None]:
    values: dict[str, Any] = {}
    damage = None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            (values[name],) = _convert_column(column)
        except _UNREADABLE as error:
            reason = str(error.args[0] if isinstance(error, KeyError) else error)[:200]
            message = f"cannot be read ({reason}); expected a valid value of the column's type"
            damage = damage or Damage(name, SampleError("bad_field", message))
    return values, damage


def _convert_column(column: pa.Array) -> list[Any]:
    column.validate(full=True)  # without validation, pyarrow aborts the process when it reads a damaged cell
    wanted = _find_plain_type(column.type)
    plain = column if wanted == column.type else column.cast(wanted)
    values: list[Any] = plain.to_pylist(maps_as_pydicts="strict")
    return values


def _find_plain_type(found: pa.DataType) -> pa.DataType:
    """Return the Arrow type to cast to, so that the Python values are bytes or have a form in JSON."""
    is_type = pa.types
    if is_type.is_temporal(found) or is_type.is_decimal(found):
        return pa.string()
    if is_type.is_float16(found):
        return pa.float32()
    if is_type.is_struct(found):
        return pa.struct([_make_plain(field) for field in found])
    if is_type.is_map(found):
        return pa.map_(found.key_type, _find_plain_type(found.item_type))
    for is_list, make in _LISTS:
        if is_list(found):
            return make(_make_plain(found.value_field))
    return found


def _make_plain(field: pa.Field) -> pa.Field:
    return field.with_type(_find_plain_type(field.type))


_LISTS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Field], pa.DataType]], ...] = (
    (pa.types.is_large_list, pa.large_list),
    (pa.types.is_list, pa.list_),
    (pa.types.is_fixed_size_list, pa.list_),
)
