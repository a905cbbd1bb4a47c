"""The common parts of all tables of text: the header, the shape of a row, and the text of a cell."""

from collections import Counter
from collections.abc import Collection
from string import ascii_uppercase

from common.errors import ConfigError, SampleError
from common.records import Fault
from common.spec.models import DatasetSource
from common.spelling import suggest
from producer.datasets.columns import Column, suggest_mapping, write_mapping
from producer.datasets.readers.tsv import Record, Span, read_cell, split_record
from producer.datasets.rows import Row, explain_unmapped, find_fault


def read_header(record: Record | None, source: DatasetSource, delimiter: bytes = b"\t") -> tuple[str, ...]:
    """Return the names of the columns. Raises ``ConfigError`` if a name is doubled or not UTF-8, or a mapped name is missing."""
    where = f"dataset {source.name!r}: {source.path}"
    if record is None:
        raise ConfigError(f"{where}: the file is empty; expected a header with the names of the columns")
    if not record.is_whole:
        raise ConfigError(f"{where}: the header has an unclosed quote; expected a closing quote")
    try:
        spans = split_record(record.content, delimiter)
        header = tuple(read_cell(record.content, span).decode("utf-8").strip() for span in spans)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: the header is not UTF-8 (byte {error.start + 1} of a name); expected UTF-8") from None
    if doubled := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
        raise ConfigError(f"{where}: two columns are called {doubled[0]!r}; expected one: rename the other")
    for theirs in source.fields.values():
        if theirs not in header:
            raise ConfigError(explain_unmapped(source, theirs, list(header)))
    return header


def find_letters(header: Collection[str]) -> frozenset[str]:
    """Return the option columns A, B, … of a table that has both A and B. An empty cell in them is an absent option, like null."""
    return frozenset(ascii_uppercase).intersection(header) if {"A", "B"} <= set(header) else frozenset()


def explain_missing_question(source: DatasetSource, header: tuple[str, ...], expected: str) -> str:
    """Return the message for a header without a question."""
    mapping = {"question": "COLUMN", **suggest_mapping({name: Column(rows=1) for name in header}, Counter())}
    return (
        f"dataset {source.name!r}: {source.path}: the header has no column 'question'{suggest('question', list(header))}; "
        f"found {', '.join(header)}; expected {expected}, or {write_mapping(mapping)}"
    )


def find_shape_fault(
    record: Record, cells: int, header: tuple[str, ...], header_line: bytes, source: DatasetSource
) -> Fault | None:
    """Return the fault of a record that has an unclosed quote or a wrong number of cells, or that repeats the header."""
    if not record.is_whole:
        found = "a cell has an unclosed quote; expected a closing quote"
    elif cells != len(header):
        found = f"found {cells} cells; expected {len(header)}, as in the header"
    elif record.content == header_line:
        found = "found the header again; expected a row; when you join files, keep only the first header"
    else:
        return None
    return find_fault(source, record.line, SampleError("bad_row", found))


def read_text(row: Row, name: str, span: Span, source: DatasetSource) -> str:
    """Return the text of a cell. Invalid UTF-8 becomes the fault of the row."""
    cell = read_cell(row.content, span)
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError as error:
        found = SampleError("bad_row", f"not UTF-8 (byte {error.start + 1} of the cell); expected UTF-8")
        row.fault = row.fault or find_fault(source, row.line, found, name)
        return cell.decode("utf-8", "replace")
