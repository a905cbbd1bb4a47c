"""Read plain tables of text: CSV (RFC 4180), CSV with semicolons, and TSV. The first record is the header.

Every cell stays text exactly as written, such as ``007``, ``NA`` or ``0.50``. An empty cell counts as absent. The columns ``A``,
``B``, … are the options, if both A and B are present.
"""

from collections.abc import Callable, Iterator
from functools import partial

from common.errors import ConfigError
from common.spec.models import DatasetSource
from common.spelling import suggest
from producer.datasets.readers.compression import find_compression
from producer.datasets.readers.lines import open_text, skip_bom
from producer.datasets.readers.tables import explain_missing_question, find_letters, find_shape_fault, read_header, read_text
from producer.datasets.readers.tsv import read_records, split_record
from producer.datasets.registry import register_reader
from producer.datasets.rows import Reading, Row, plan_reading


@register_reader("csv", endings=(".csv",))
def read_csv(source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of a table with commas."""
    return _read_table(source, b",")


@register_reader("csv_semicolon")
def read_csv_semicolon(source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of a table with semicolons. Spreadsheets in many countries write this form."""
    return _read_table(source, b";")


@register_reader("tsv", endings=(".tab",))
def read_tsv(source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of a table with tabs."""
    return _read_table(source, b"\t")


def _read_table(source: DatasetSource, delimiter: bytes) -> Iterator[Row]:
    return read_records_below_header(source, delimiter, partial(_check_header, plan_reading(source)))


def read_records_below_header(
    source: DatasetSource, delimiter: bytes, check_header: Callable[[tuple[str, ...]], None]
) -> Iterator[Row]:
    """Yield the rows of a table after ``check_header`` accepts the names of its columns."""
    keeps_offsets = find_compression(source.path) is None
    with open_text(source) as stream:
        records = read_records(stream, delimiter, offset=skip_bom(stream))
        first = next(records, None)
        header = read_header(first, source, delimiter)
        check_header(header)
        header_line = first.content if first else b""
        letters = find_letters(header)
        for number, record in enumerate(records):
            row = Row(number, record.line, record.content, record.offset if keeps_offsets else None, columns=header)
            spans = split_record(record.content, delimiter)
            row.fault = find_shape_fault(record, len(spans), header, header_line, source)
            cells = {name: read_text(row, name, span, source) for name, span in zip(header, spans, strict=False)}
            row.fields = {name: text or None for name, text in cells.items() if text or name in letters}
            yield row


def _check_header(reading: Reading, header: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` if a name is missing, or if no row can be asked because of the names."""
    source = reading.source
    where = f"dataset {source.name!r}: {source.path}"
    if "" in header:
        raise ConfigError(
            f"{where}: column {header.index('') + 1} of the header has no name; expected a name for each column "
            "(pandas writes the index without a name: use to_csv(…, index=False))"
        )
    known = {reading.ours[name] for name in header if name in reading.ours}
    if not known or (known.isdisjoint({"question", "messages"}) and suggest("question", list(header))):
        raise ConfigError(explain_missing_question(source, header, "a header with our names"))
