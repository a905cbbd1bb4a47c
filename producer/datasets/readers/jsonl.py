"""Read JSON lines: one object per line in UTF-8. Blank lines are skipped. A line that is not an object is an invalid row.

NaN, Infinity and lone surrogates are not valid JSON, but Python's json module writes them. A line that contains them is
decoded again with that module. NaN or infinity becomes ``None`` in metadata and a ``bad_field`` fault in a field of the
sample. A lone surrogate is a ``bad_field`` fault in any field, because stored text cannot contain it. A duplicate key in an
object is a ``bad_row`` fault, because JSON does not define which value counts.
"""

import json
import reprlib
from collections import Counter
from collections.abc import Iterator
from math import isfinite
from typing import Any

import msgspec

from common.errors import SampleError
from common.spec.models import DatasetSource
from producer.datasets.fields import misfit
from producer.datasets.readers.compression import find_compression
from producer.datasets.readers.lines import is_cut, open_text, read_lines
from producer.datasets.registry import register_reader
from producer.datasets.rows import ALIASES, Row, find_fault

# Far below 200, the depth at which pydantic refuses to parse the JSON of a sample (measured with pydantic 2.14).
_DEPTH_LIMIT = 64
_DECODER = msgspec.json.Decoder()


@register_reader("jsonl", endings=(".jsonl", ".ndjson"))
def read_jsonl(source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of a JSON lines file."""
    number = 0
    keeps_offsets = find_compression(source.path) is None
    with open_text(source) as stream:
        for line_number, offset, line in read_lines(stream):
            if not line.isspace():
                row = Row(number, line_number, line, offset if keeps_offsets else None)
                try:
                    fill_row(row, source)
                except SampleError as error:
                    row.fault = find_fault(source, line_number, error)
                yield row
                number += 1


def fill_row(row: Row, source: DatasetSource) -> None:
    """Set the fields of the row. Raises ``SampleError`` if the line is not a valid object."""
    if is_cut(row.content):
        raise SampleError("bad_row", f"longer than {len(row.content):,} bytes; expected one JSON object per line")
    try:
        decoded = _DECODER.decode(row.content)
        is_plain = True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        decoded = _decode_again(row.content, str(error))
        is_plain = False
    if not isinstance(decoded, dict):
        raise SampleError("bad_row", str(misfit(decoded, "a JSON object")))
    if row.content.count(b"[") + row.content.count(b"{") > _DEPTH_LIMIT and _measure_depth(decoded) > _DEPTH_LIMIT:
        raise _too_deep()
    if is_plain:
        if row.content.count(b":") > len(decoded):  # a key may be duplicate: msgspec keeps the last value without an error
            _KEY_CHECKER.decode(row.content.decode())
        row.fields = decoded
    else:
        _mend_fields(row, decoded, source)


def _decode_again(line: bytes, first_error: str) -> Any:
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_refuse_repeated_key)
    except UnicodeDecodeError as error:
        raise SampleError("bad_row", f"not UTF-8 (byte {error.start + 1} of the row); expected a JSON object in UTF-8") from None
    except ValueError:
        raise SampleError("bad_row", f"not JSON ({first_error}); expected a JSON object") from None
    except RecursionError:
        raise _too_deep() from None


def _refuse_repeated_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a ``dict``. Raises ``SampleError`` for a duplicate key."""
    made = dict(pairs)
    if len(made) < len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise SampleError("bad_row", f"the key {reprlib.repr(repeated)} is given twice in one object; expected each key once")
    return made


# Numbers stay text, because Python raises an error for a number of 5 000 digits.
_KEY_CHECKER = json.JSONDecoder(object_pairs_hook=_refuse_repeated_key, parse_int=str, parse_float=str)


def _too_deep() -> SampleError:
    return SampleError("bad_row", f"nested more than {_DEPTH_LIMIT} levels deep; expected a flatter object")


def _mend_fields(row: Row, decoded: dict[str, Any], source: DatasetSource) -> None:
    ours = {*source.fields.values(), *(name for names in ALIASES.values() for name in names)}
    fields: dict[str, Any] = {}
    for name, value in decoded.items():
        mended_name = mend_value(name)
        fields[mended_name] = mend_value(value, keeps_numbers=name in ours)
        if row.fault is None and not _is_utf8([name, value]):
            found = json.dumps(value)[:60]
            error = SampleError("bad_field", f"found a lone surrogate in {found}; expected text that UTF-8 can hold")
            row.fault = find_fault(source, row.line, error, mended_name)
    row.fields = fields


def mend_value(value: Any, *, keeps_numbers: bool = False) -> Any:
    """Replace lone surrogates with U+FFFD and, unless ``keeps_numbers``, NaN and infinity with ``None``."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float) and not isfinite(value):
        return value if keeps_numbers else None
    if isinstance(value, list):
        return [mend_value(one, keeps_numbers=keeps_numbers) for one in value]
    if isinstance(value, dict):
        return {mend_value(name): mend_value(one, keeps_numbers=keeps_numbers) for name, one in value.items()}
    return value


def _is_utf8(value: Any) -> bool:
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        return False
    return True


def _measure_depth(value: Any) -> int:
    """Return the maximum nesting depth of lists and objects."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, list | dict)]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth
