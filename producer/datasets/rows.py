"""The rows that readers yield, and the rules for reading their fields. All formats share this code.

``source.fields`` maps our field names to the file's field names. ``ALIASES`` applies to our names that ``source.fields`` does not
map. Columns in ``source.ignore`` are not read.
"""

import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

from common.errors import ConfigError, SampleError
from common.records import Fault, Kind
from common.redaction import mask_text
from common.spec.models import DatasetSource
from common.spelling import suggest
from producer.datasets.media import MediaKind, Reference


class RowField(NamedTuple):
    """One of our fields.

    - ``names`` are its names in files, in order of preference.
    - ``forms`` describes the forms of its values.
    - ``meaning`` describes its meaning.
    """

    names: tuple[str, ...]
    forms: str
    meaning: str


_MEDIA_FORMS = "a path, a URL, base64 text, bytes, an object with one of these, or a list of these"

# Every field of a row that has a meaning, by our name.
FIELDS: dict[str, RowField] = {
    "id": RowField(
        ("id", "index", "question_id", "qid", "uid", "custom_id"),
        "text or whole number",
        "names the row in the results; by default, the position of the row",
    ),
    "question": RowField(("question",), "text", "the question"),
    "hint": RowField(("hint",), "text", "text that the default prompt puts before the question"),
    "options": RowField(
        ("options", "choices"),
        "a list, an object by letter, or text that spells one",
        "the options of a multiple-choice question; if this field is missing, the columns A, B, … are the options",
    ),
    "target": RowField(
        ("target", "answer", "answers"),
        "text, a number, true or false, a list of these, or a list of objects with answer",
        "the accepted answers; for a multiple-choice question, the letter or the text of an option; empty if unknown",
    ),
    "target_index": RowField((), "whole number", "the position of the option that is the target, counted from 0"),
    "image": RowField(("image", "images"), _MEDIA_FORMS, "the images; also image_1, image_2, … in the order of their numbers"),
    "image_path": RowField(("image_path",), _MEDIA_FORMS, "the images, or the names of their files if image contains the bytes"),
    "video": RowField(("video", "videos", "video_path"), _MEDIA_FORMS, "the videos"),
    "group": RowField(
        ("group",),
        "text or whole number",
        "name of the row's group; samples of one group stay together; by default, rows with the same media form a group",
    ),
    "kind": RowField(("kind",), ", ".join(get_args(Kind)), "the kind of question; it determines the wording and the score"),
    "messages": RowField(
        ("messages", "conversations", "conversation", "body"), "a list of turns", "a conversation, sent as written"
    ),
}
ALIASES: dict[str, tuple[str, ...]] = {name: field.names for name, field in FIELDS.items()}

MEDIA_KINDS: dict[str, MediaKind] = {"image": "image", "image_path": "image", "video": "video"}


@dataclass(slots=True)
class Row:
    """One row as the reader of a format returns it.

    - ``number`` is the number of the row, from 0.
    - ``line`` is the number of the line where the row begins, from 1, or a text that names the row in a source without lines.
    - ``content`` is the bytes of the row.
    - ``offset`` is the position of these bytes in the file, if the file contains them unchanged. In that case, large base64 text
      is referenced instead of copied.
    - ``fields`` maps the file's field names to the raw values: bytes, or the types of JSON with text that UTF-8 can encode.
    - ``media`` and ``metadata`` are set only by a reader with special rules.
    - ``kind`` is also set only by such a reader. It applies to rows without options and without a kind field. A dataset of yes/no
      questions has the kind ``yes_no`` in every format.
    - ``columns`` lists all field names that a row of the file can have, if ``fields`` may omit some of them.
    - ``reading`` contains the rules for the row's own file, if the dataset has several files.
    """

    number: int
    line: int | str
    content: bytes
    offset: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    media: list[Reference] = field(default_factory=list)
    kind: Kind | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    fault: Fault | None = None
    columns: Collection[str] | None = None
    reading: "Reading | None" = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The rules for reading a source.

    ``names`` maps each of our fields to its possible names in the file, in order of preference. ``ours`` is the reverse map.
    """

    source: DatasetSource
    root: str
    names: dict[str, tuple[str, ...]]
    ours: dict[str, str]


def plan_reading(source: DatasetSource) -> Reading:
    """Return the rules for reading a source. Raises ``ConfigError`` if it maps an unknown name or an ignored column."""
    if strange := [name for name in source.fields if name not in ALIASES]:
        raise ConfigError(
            f"dataset {source.name!r}: fields: {strange[0]!r} is not a known field name{suggest(strange[0], list(ALIASES))}; "
            f"expected NAME: FILE FIELD, where NAME is one of {', '.join(ALIASES)}"
        )
    if both := [(ours, theirs) for ours, theirs in source.fields.items() if theirs in source.ignore]:
        name, column = both[0]
        raise ConfigError(f"dataset {source.name!r}: fields.{name} maps {column!r}, and ignore lists it; expected one of the two")
    mapped = {ours: (theirs,) for ours, theirs in source.fields.items()}
    names = ALIASES | mapped
    ours = {alias: name for name, aliases in names.items() for alias in aliases}
    ours |= {theirs: name for name, theirs in source.fields.items()}  # a mapped column has only the mapped meaning
    ours = {theirs: name for theirs, name in ours.items() if theirs not in source.ignore}
    return Reading(source, source.media_root or posixpath.dirname(source.path), names, ours)


class NamedColumns:
    """The columns that ``fields`` and ``ignore`` of a source name, and the columns that its rows have."""

    def __init__(self, source: DatasetSource) -> None:
        self._source = source
        self._unseen = {*source.fields.values(), *source.ignore}
        self._known: set[str] = set()

    def add_row(self, row: Row) -> None:
        if self._unseen:
            self._known.update(row.fields if row.columns is None else row.columns, row.metadata)
            self._unseen -= self._known

    def check(self) -> None:
        """Raise ``ConfigError`` if the source names a column that no row has."""
        if not (self._unseen and self._known):
            return
        known = sorted(self._known)
        if mapped := self._unseen.intersection(self._source.fields.values()):
            raise ConfigError(explain_unmapped(self._source, min(mapped), known))
        missing = min(self._unseen)
        raise ConfigError(
            f"dataset {self._source.name!r}: ignore: {self._source.path} has no column {missing!r}{suggest(missing, known)}; "
            f"expected some of: {_list_names(known)}"
        )


def explain_unmapped(source: DatasetSource, missing: str, known: list[str]) -> str:
    """Return the message for a mapping to a field that the file does not have."""
    ours = next(name for name, theirs in source.fields.items() if theirs == missing)
    where = f"dataset {source.name!r}: fields.{ours}: {source.path} has no field {missing!r}"
    return f"{where}{suggest(missing, known)}; expected one of: {_list_names(known)}"


def _list_names(known: list[str]) -> str:
    return ", ".join(known[:20]) + (", …" if len(known) > 20 else "")


def find_fault(source: DatasetSource, line: int | str, error: SampleError, name: str | None = None) -> Fault:
    """Return the fault of a row, with its file, line and field."""
    at = line if isinstance(line, str) else f"line {line}"
    place = f"{Path(source.path).name}: {at}" + (f": field {name!r}" if name else "")
    return Fault(code=error.code, message=mask_text(f"{place}: {error}"))
