"""Print the inspection of a dataset to a terminal, with the lines for a spec."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from common.records import Message
from common.redaction import mask_text
from producer.console.scores import ABSENT
from producer.datasets.media_headers import MediaHeader
from producer.planning.inspection import Inspection, ShownRow

_MOST_FILES = 3
_MOST_COLUMNS = 40
_LONGEST_NAME = 40  # characters
_LONGEST_TEXT = 300
_LONGEST_MESSAGE = 600
_MOST_LISTED = 26  # options, targets or media of a row


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print the format, files, counts, columns, first rows, faults and notices, and the lines to paste into a spec."""
    _print_heading(inspection, console)
    console.print(_make_column_table(inspection))
    hidden = len(inspection.fields) + len(inspection.metadata) - _MOST_COLUMNS
    if hidden > 0:
        _print(console, f"… and {hidden:,} more columns; --json lists them")
    for number, row in enumerate(inspection.first_rows, 1):
        _print(console, f"row {number}: id {_cut(row.index, _LONGEST_NAME)}, {row.kind}")
        console.print(Padding(_make_row_table(row), (0, 0, 1, 2), expand=False))
    _print_notes(inspection, console)
    if inspection.lines:
        _print(console, "Paste into a spec:", "")
        _print(console, inspection.lines.rstrip("\n"))


def _print_heading(inspection: Inspection, console: Console) -> None:
    _print(console, f"{inspection.dataset}: {inspection.format}")
    for file in inspection.files[:_MOST_FILES]:
        size = "" if file.size_bytes is None else f" ({format_bytes(file.size_bytes)})"
        _print(console, f"  {mask_text(file.path)}{size}")
    if (more := len(inspection.files) - _MOST_FILES) > 0:
        _print(console, f"  … and {more:,} more files")
    faulty = ", ".join(f"{fault.rows:,} {fault.code}" for fault in inspection.faults) or "none"
    counted = f"rows {inspection.rows:,}, unique {inspection.unique:,}, duplicates {inspection.duplicates:,}"
    _print(console, f"  {counted}, faulty rows: {faulty}")
    if inspection.kinds:
        _print(console, f"  kinds: {', '.join(f'{kind} {count:,}' for kind, count in inspection.kinds.items())}")


def _make_column_table(inspection: Inspection) -> Table:
    """Return a table with one row per column of the dataset: its use, and for an unused column, the field that it looks like."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("column", overflow="fold")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("used as", overflow="fold")
    rows = [(one.column or "(from the format)", one.rows, one.field) for one in inspection.fields]
    looks = {notice.column: notice for notice in inspection.notices if notice.column}
    for column in inspection.metadata:
        notice = looks.get(column.column)
        use = f"metadata; looks like {notice.looks_like}" if notice else "metadata"
        rows.append((column.column, column.rows, use))
    for name, count, use in rows[:_MOST_COLUMNS]:
        table.add_row(Text(_cut(name, _LONGEST_NAME)), f"{count:,}", use)
    return table


def _make_row_table(row: ShownRow) -> Table:
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for label, text in _list_parts(row):
        table.add_row(label, Text(text))
    return table


def _list_parts(row: ShownRow) -> Iterator[tuple[str, str]]:
    """Yield the parts of a row, each with its label."""
    if row.fault:
        yield "fault", f"{row.fault.code}: {mask_text(row.fault.message)}"
    if row.question:
        yield "question", _cut(row.question, _LONGEST_TEXT)
    if row.options:
        yield "options", "\n".join(_list_most([f"{letter}. {_cut(text, _LONGEST_TEXT)}" for letter, text in row.options.items()]))
    yield "target", " | ".join(_list_most([_cut(text, _LONGEST_TEXT) for text in row.target])) or ABSENT
    yield "media", "\n".join(_list_most([_describe_media(number, one) for number, one in enumerate(row.media, 1)])) or ABSENT
    kinds = [one.kind for one in row.media]
    for message in row.messages:
        yield message.role, _describe_message(message, kinds)


def _describe_media(number: int, header: MediaHeader) -> str:
    size = "" if header.width is None else f" {header.width}×{header.height}"
    problem = f" ({header.problem})" if header.problem else ""
    return f"{number}. {header.kind}{size} {_cut(header.place, _LONGEST_TEXT)}{problem}"


def _describe_message(message: Message, kinds: Sequence[str]) -> str:
    parts = (f"[{kinds[part]} {part + 1}]" if isinstance(part, int) else part for part in message.content)
    return _cut("".join(parts).rstrip(), _LONGEST_MESSAGE)


def _print_notes(inspection: Inspection, console: Console) -> None:
    """Print the first fault of each code, the notices, and the reasons for options that the user did not give."""
    if inspection.faults:
        _print(console, "Faulty rows, with the first of each code:")
        _print(console, *(f"  {fault.rows:,} {fault.code}: {mask_text(fault.first)}" for fault in inspection.faults), "")
    if inspection.notices:
        _print(console, "Check:")
        for notice in inspection.notices:
            place = f"column {_cut(notice.column, _LONGEST_NAME)}" if notice.column else notice.event.removeprefix("dataset.")
            looks = f", looks like {notice.looks_like}" if notice.looks_like else ""
            _print(console, f"  {place} ({notice.rows:,} {'row' if notice.rows == 1 else 'rows'}{looks}): {mask_text(notice.hint)}")
        _print(console, "")
    if inspection.adopted:
        _print(console, "Without these options the dataset cannot be enqueued, so the lines below contain them:")
        _print(console, *(f"  {mask_text(reason)}" for reason in inspection.adopted), "")


def format_bytes(size_bytes: int) -> str:
    """Return a size in bytes, kB, MB or GB, with one to three digits before the decimal point."""
    size, units = float(size_bytes), ["bytes", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:,.0f} {units[0]}" if units[0] == "bytes" else f"{size:,.1f} {units[0]}"


def _list_most(texts: list[str]) -> list[str]:
    more = len(texts) - _MOST_LISTED
    return [*texts[:_MOST_LISTED], f"… and {more:,} more"] if more > 0 else texts


def _cut(text: str, most: int) -> str:
    """Return the beginning of a text in a form that is safe for a terminal. Add the length of the text if it is cut."""
    shown = mask_text(text[:most])
    return shown if len(text) <= most else f"{shown}… ({len(text):,} characters)"


def _print(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
