"""Convert a value that no field of the sample uses, so that JSON can hold it."""

from typing import Any


def to_metadata(value: Any) -> Any:
    """Return the value with the size of binary data in place of the data, because results do not contain copies of files."""
    if isinstance(value, bytes):
        return f"({len(value):,} bytes)"
    if isinstance(value, list):
        return [to_metadata(one) for one in value]
    if isinstance(value, dict):
        return {_to_name(name): to_metadata(one) for name, one in value.items()}
    return value


def _to_name(name: Any) -> Any:
    """Return the key of an object. Keys of a Parquet map may be bytes."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name
