"""Read VLMEvalKit's TSV format (source: its code of 2026-08-18): a header, one row per question, images as base64 in the row.

Columns:

- ``index``, ``question`` and ``hint``;
- ``A`` … ``Z`` (options, if both A and B are present), or else ``choices`` (a list);
- ``answer``: a letter, Yes or No, text, or a list literal of accepted texts;
- ``image`` (base64, the index of another row, or a list literal of these), or else ``image_path``;
- ``video_path``, or else ``video``;
- this project's ``group`` and ``messages``.

All other columns become metadata as text. An empty cell counts as absent. ``fields`` maps our names to other columns.

VLMEvalKit derives the question kind from the whole dataset. This project does the same (``survey``): a row with options is multiple
choice. The other rows are yes/no if all of their answers are yes or no, else short text. A ``kind`` column applies if its value is
a known kind.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from string import ascii_uppercase
from typing import Any, Literal

from common.errors import ConfigError, SampleError
from common.records import Fault
from common.spec.models import DatasetSource
from common.storage.files import is_file, is_folder
from producer.datasets.fields import KINDS
from producer.datasets.media import Reference, find_size, refer
from producer.datasets.readers.lines import open_text, skip_bom
from producer.datasets.readers.tables import explain_missing_question, find_shape_fault, read_header, read_text
from producer.datasets.readers.tsv import Record, Span, read_records, split_record
from producer.datasets.readers.tsv_images import ImageCells
from producer.datasets.registry import register_reader
from producer.datasets.rows import Reading, Row, find_fault, plan_reading
from producer.datasets.values.literals import read_texts

_READ = ("id", "question", "hint", "options", "target", "group", "image", "image_path", "video", "messages")
# VLMEvalKit's names take precedence over our aliases. Its ``video`` column names a clip, and ``video_path`` the file.
_PREFERRED = {"id": "index", "target": "answer", "video": "video_path"}

Role = Literal["field", "option", "kind", "image", "image_path", "metadata", "ignored"]


@dataclass(frozen=True, slots=True)
class _Table:
    """The layout of every row. ``columns`` maps our names to column names. ``roles`` gives the role of each column, in order."""

    reading: Reading
    header: tuple[str, ...]
    header_line: bytes
    roles: tuple[Role, ...]
    columns: dict[str, str]
    image_cells: ImageCells
    images_folder: str | None


@register_reader("vlmeval_tsv", endings=(".tsv",))
def read_vlmeval_tsv(source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of a VLMEvalKit TSV. Raises ``ConfigError`` if a required column is missing in the header."""
    with open_text(source) as stream:
        records = read_records(stream, offset=skip_bom(stream))
        table = _read_table(next(records, None), source)
        with closing(table.image_cells):
            for number, record in enumerate(records):
                yield _read_row(record, number, table)


def _read_table(record: Record | None, source: DatasetSource) -> _Table:
    header = read_header(record, source)
    reading = plan_reading(source)
    present = _find_columns([name for name in header if name not in source.ignore], reading)
    if "question" not in present and "messages" not in present:
        raise ConfigError(explain_missing_question(source, header, "a VLMEvalKit TSV"))
    positions = {ours: header.index(name) for ours, name in present.items()}
    folder = f"{reading.root}/images/{source.name}"
    return _Table(
        reading=reading,
        header=header,
        header_line=record.content if record else b"",
        roles=_find_roles(header, present, source),
        columns=present,
        image_cells=ImageCells(source.path, positions.get("id"), positions.get("image")),
        images_folder=folder if is_folder(folder) else None,
    )


def _find_columns(header: list[str], reading: Reading) -> dict[str, str]:
    """Map our names to the columns that become fields of the sample.

    Raises ``ConfigError`` if both a mapped column and the columns A, B, … contain options.
    """
    names = reading.names | {ours: (theirs, *reading.names[ours]) for ours, theirs in _PREFERRED.items()}
    names |= {ours: (theirs,) for ours, theirs in reading.source.fields.items()}
    found = {ours: [name for name in names[ours] if name in header] for ours in sorted({*_READ, *reading.source.fields})}
    present = {ours: columns[0] for ours, columns in found.items() if columns}
    letters = [name for name in header if name in ascii_uppercase]
    if {"A", "B"} <= set(letters):
        mapped = reading.source.fields.get("options")
        if mapped not in (None, *letters):
            columns = ", ".join(letters)
            raise ConfigError(
                f"dataset {reading.source.name!r}: {reading.source.path}: fields.options maps {mapped!r}, and the header also has "
                f"the option columns {columns}; expected one of the two; remove the mapping, or add ignore: [{columns}]"
            )
        present.pop("options", None)
    return present


def _find_roles(header: tuple[str, ...], present: dict[str, str], source: DatasetSource) -> tuple[Role, ...]:
    special: dict[str, Role] = {"kind": "kind"}
    if {"A", "B"} <= set(header) - set(source.ignore):
        special |= dict.fromkeys(ascii_uppercase, "option")
    special |= dict.fromkeys(present.values(), "field")
    if present.get("video") == "video_path" and "video" not in source.fields:
        special["video"] = "field"  # it applies to rows with an empty cell in video_path
    special |= {present[role]: role for role in ("image", "image_path") if role in present}
    special |= dict.fromkeys(source.ignore, "ignored")
    return tuple(special.get(name, "metadata") for name in header)


def _read_row(record: Record, number: int, table: _Table) -> Row:
    row = Row(number, record.line, record.content, columns=table.header)
    spans = split_record(record.content)
    row.fault = find_shape_fault(record, len(spans), table.header, table.header_line, table.reading.source)
    texts: dict[Role, dict[str, Any]] = {"field": {}, "option": {}, "image_path": {}, "metadata": row.metadata}
    image: Span | None = None
    for name, role, span in zip(table.header, table.roles, spans, strict=False):  # a row may have missing cells
        if role == "ignored":
            continue
        if role == "image":
            image = span
        elif text := read_text(row, name, span, table.reading.source):
            if role == "kind":
                role = "field" if text in KINDS else "metadata"
            if role == "metadata" and table.reading.ours.get(name) in (None, "image", "video"):
                role = "field"  # the survey reports unused columns that look like a field, and media are compared
            texts[role][name] = text
    fields, options = texts["field"], texts["option"]
    _shape_video(fields, table.columns)
    if "video_path" in fields and "video" in fields and table.columns.get("video") == "video_path":
        row.metadata["video"] = fields.pop("video")
    row.kind = "short_text"
    row.fields = fields | {table.reading.names["options"][0]: options} if options else fields
    if row.fault is None:
        row.media = _read_images(row, record, image, "".join(texts["image_path"].values()), table)
        row.fault = row.fault or _find_clip_fault(row, table)
    return row


def _find_clip_fault(row: Row, table: _Table) -> Fault | None:
    """Return the fault of a row whose video is the id of a clip: a text without a file ending that is not a file."""
    for name in dict.fromkeys((table.columns.get("video", "video"), "video")):
        value = row.fields.get(name, ())
        for text in (value,) if isinstance(value, str) else value:
            if "://" not in text and not PurePosixPath(text).suffix and find_size(f"{table.reading.root}/{text}") is None:
                message = f"found {text[:80]!r}, which is not a file in {table.reading.root}; expected the path of a video; "
                advice = "add a column video_path, or put the file there"
                return find_fault(table.reading.source, row.line, SampleError("bad_media", message + advice), name)
    return None


def _shape_video(fields: dict[str, Any], columns: dict[str, str]) -> None:
    """Convert a list literal of videos to a list."""
    if (column := columns.get("video")) in fields:
        fields[column] = read_texts(fields[column]) or fields[column]


def _read_images(row: Row, record: Record, cell: Span | None, paths: str, table: _Table) -> list[Reference]:
    """Return the images of the ``image`` cell, or else of ``image_path``. An image that is not found is a fault of the row."""
    ours = "image"
    try:
        if cell and (images := table.image_cells.read(record, cell)):
            return images
        ours = "image_path"
        texts = (read_texts(paths) or paths) if paths else []
        return [_refer(text, table) for text in ([texts] if isinstance(texts, str) else texts)]
    except SampleError as error:
        row.fault = find_fault(table.reading.source, row.line, error, table.columns[ours])
        return []


def _refer(text: str, table: _Table) -> Reference:
    """Return the image at a path. A relative path is first looked up in ``images/<dataset>``, if that folder exists."""
    reference = refer(text, "image", table.reading.root)
    if table.images_folder and is_file(path := f"{table.images_folder}/{PurePosixPath(text)}"):
        return Reference(reference.media.model_copy(update={"uri": path}), reference.key)
    return reference
