"""JSON lines: one object a line, UTF-8.  Blank lines are no rows; a line that is no object is a row at fault.

NaN, Infinity and lone surrogates are no JSON, but Python's json module writes them, so such a line is read a second time
by that module: a number that is none becomes ``None`` in metadata and a ``bad_field`` fault in the fields we read; a lone
surrogate is a ``bad_field`` fault wherever it stands, because no text that we store can hold it.
"""

import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from common.errors import SampleError
from common.spec import DatasetSource
from producer.datasets.fields import misfit
from producer.datasets.lines import read_lines
from producer.datasets.registry import register_reader
from producer.datasets.rows import ALIASES, Row, find_fault

_DECODER = msgspec.json.Decoder()


@register_reader("jsonl", endings=(".jsonl", ".ndjson"))
def read_jsonl(source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of a JSON lines file."""
    number = 0
    with Path(source.path).open("rb") as stream:
        for line_number, offset, line in read_lines(stream):
            if not line.isspace():
                row = Row(number, line_number, line, offset)
                _fill_row(row, source)
                yield row
                number += 1


def _fill_row(row: Row, source: DatasetSource) -> None:
    try:
        decoded = _DECODER.decode(row.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _fill_odd_row(row, source, error)
        return
    if isinstance(decoded, dict):
        row.fields = decoded
    else:
        row.fault = find_fault(source, row.line, SampleError("bad_row", str(misfit(decoded, "a JSON object"))))


def _fill_odd_row(row: Row, source: DatasetSource, first_error: Exception) -> None:
    try:
        decoded = json.loads(row.content.decode("utf-8"))
    except UnicodeDecodeError as error:
        fault = SampleError("bad_row", f"not UTF-8 (byte {error.start} of the line); expected a JSON object in UTF-8")
    except (ValueError, RecursionError):
        fault = SampleError("bad_row", f"not JSON ({first_error}); expected a JSON object")
    else:
        if isinstance(decoded, dict):
            row.fields, row.fault = _mend(decoded, row, source)
            return
        fault = SampleError("bad_row", str(misfit(decoded, "a JSON object")))
    row.fault = find_fault(source, row.line, fault)


def _mend(decoded: dict[str, Any], row: Row, source: DatasetSource) -> tuple[dict[str, Any], Any]:
    """Return the fields with what cannot be stored replaced, and the fault of the first field with a lone surrogate."""
    ours = {*source.fields.values(), *(name for names in ALIASES.values() for name in names)}
    fields, fault = {}, None
    for name, value in decoded.items():
        mended = _replace_surrogates({name: value})
        if fault is None and mended != {name: value} and _has_surrogate({name: value}):
            error = SampleError("bad_field", f"found a lone surrogate in {json.dumps(value)[:60]}; expected text that UTF-8 can hold")
            fault = find_fault(source, row.line, error, next(iter(mended)))
        fields.update(mended if name in ours and not isinstance(value, list | dict) else _without_nan(mended))
    return fields, fault
