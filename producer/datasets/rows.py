"""Convert a row to a ``Sample``. All formats share this code.

``source.fields`` maps our field names to the file's field names. ``ALIASES`` applies to names that it does not map. All other
fields become metadata of the sample. An invalid row becomes a sample with a ``fault`` that names file, line and field.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from common.digests import digest_bytes
from common.errors import ConfigError, SampleError
from common.records import Fault, Kind, Sample
from common.redaction import mask_text
from common.spec.models import DatasetSource
from common.spelling import suggest
from producer.datasets.fields import infer_kind, to_index, to_kind, to_letters, to_options, to_target, to_text
from producer.datasets.media import MediaKind, Place, Reference, pin_reference, read_references

# Our field names and their common names in files, in order of preference.
ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id", "index", "question_id", "qid", "uid"),
    "question": ("question",),
    "hint": ("hint",),
    "options": ("options", "choices"),
    "target": ("target", "answer", "answers"),
    "image": ("image", "images"),
    "image_path": ("image_path",),
    "video": ("video", "videos", "video_path"),
    "group": ("group",),
    "kind": ("kind",),
}

_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "id": to_index,
    "question": to_text,
    "hint": to_text,
    "options": to_options,
    "target": to_target,
    "group": to_index,
    "kind": to_kind,
}
MEDIA_KINDS: dict[str, MediaKind] = {"image": "image", "image_path": "image", "video": "video"}
_ENCODER = msgspec.json.Encoder()


@dataclass(slots=True)
class Row:
    """One row as the reader of a format returns it.

    - ``number`` is the number of the row, from 0.
    - ``line`` is the number of the line where the row begins, from 1.
    - ``content`` is the bytes of the row.
    - ``offset`` is the position of these bytes in the file, if the file contains them unchanged. In that case, large base64 text
      is referenced instead of copied.
    - ``fields`` maps the file's field names to the raw values, with the types of JSON and text that UTF-8 can encode.
    - ``media``, ``kind`` (for a row without a kind field) and ``metadata`` are set only by a reader with special rules.
    - ``columns`` lists all field names that a row of the file can have, if ``fields`` may omit some of them.
    """

    number: int
    line: int
    content: bytes
    offset: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    media: list[Reference] = field(default_factory=list)
    kind: Kind | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    fault: Fault | None = None
    columns: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The rules for reading a source.

    ``names`` maps each of our fields to its possible names in the file, in order of preference. ``ours`` is the reverse map.
    """

    source: DatasetSource
    root: str
    names: dict[str, tuple[str, ...]]
    ours: dict[str, str]


def read_samples(source: DatasetSource, rows: Iterator[Row]) -> Iterator[Sample]:
    """Yield a sample for each of the first ``source.limit`` rows.

    Raises ``ConfigError`` if ``source.fields`` maps an unknown name, or maps a name to a field that is missing in all rows, or if
    there are no rows.
    """
    reading = plan_reading(source)
    unseen, met = set(source.fields.values()), set[str]()
    row = None
    for row in islice(rows, source.limit):
        if unseen:
            met.update(row.fields if row.columns is None else row.columns)
            unseen -= met
        yield to_sample(row, reading)
    if unseen and met:
        raise ConfigError(explain_unmapped(source, min(unseen), sorted(met)))
    if row is None:
        raise ConfigError(
            f"dataset {source.name!r}: {source.path} holds no rows; expected at least one; check that the file is complete"
        )


def plan_reading(source: DatasetSource) -> Reading:
    """Return the rules for reading a source. Raises ``ConfigError`` if it maps an unknown name."""
    if strange := [name for name in source.fields if name not in ALIASES]:
        raise ConfigError(
            f"dataset {source.name!r}: fields: {strange[0]!r} is not a known field name{suggest(strange[0], list(ALIASES))}; "
            f"expected NAME: FILE FIELD, where NAME is one of {', '.join(ALIASES)}"
        )
    mapped = {ours: (theirs,) for ours, theirs in source.fields.items()}
    names = ALIASES | mapped
    ours = {alias: name for name, aliases in names.items() for alias in aliases}
    ours |= {theirs: name for name, theirs in source.fields.items()}  # a mapped column has only the mapped meaning
    return Reading(source, source.media_root or str(Path(source.path).parent), names, ours)


def explain_unmapped(source: DatasetSource, missing: str, known: list[str]) -> str:
    """Return the message for a mapping to a field that the file does not have."""
    ours = next(name for name, theirs in source.fields.items() if theirs == missing)
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    where = f"dataset {source.name!r}: fields.{ours}: {source.path} has no field {missing!r}"
    return f"{where}{suggest(missing, known)}; expected one of: {shown}"


def find_fault(source: DatasetSource, line: int, error: SampleError, name: str | None = None) -> Fault:
    """Return the fault of a row, with its file, line and field."""
    place = f"{Path(source.path).name}: line {line}" + (f": field {name!r}" if name else "")
    return Fault(code=error.code, message=mask_text(f"{place}: {error}"))


def to_sample(row: Row, reading: Reading) -> Sample:
    """Return the sample of a row. Keep the first fault. Read all valid fields, also in an invalid row."""
    source = reading.source
    found, metadata = _sort_fields(row, reading)
    values, fault = _convert_fields(row, found, reading)
    question: str = values.get("question", "")
    if fault is None and not question.strip():
        missing = SampleError("missing_question", "absent, null or blank; expected the question's text")
        fault = find_fault(source, row.line, missing, reading.names["question"][0])

    options: dict[str, str] = values.get("options", {})
    target: tuple[str, ...] = values.get("target", ())
    kind = source.kind or values.get("kind") or row.kind or infer_kind(options, target)
    if fault is None and kind == "multiple_choice" and options:
        try:
            target = to_letters(target, options)
        except SampleError as error:
            fault = find_fault(source, row.line, error, found["target"][0])
    references = [*row.media, *(values.get("image") or values.get("image_path", ())), *values.get("video", ())]
    if source.media_digest:
        references = [pin_reference(reference) for reference in references]
    keys = [reference.key for reference in references]
    group = values.get("group")
    if fault is None:
        asked = (source.name, question, values.get("hint"), options, kind, target, keys, group)
        sample_id = digest_bytes(_ENCODER.encode(asked))
    else:
        sample_id = digest_bytes(f"fault\n{source.name}\n".encode() + row.content.strip())
    return Sample(
        sample_id=sample_id,
        dataset=source.name,
        index=values.get("id", str(row.number)),
        kind=kind,
        question=question,
        hint=values.get("hint"),
        options=options,
        target=target,
        media=tuple([reference.media for reference in references]),
        group=group or (digest_bytes("\n".join(keys).encode(), size=8) if keys else sample_id),
        metadata=metadata,
        fault=fault,
    )


def _sort_fields(row: Row, reading: Reading) -> tuple[dict[str, tuple[str, Any]], dict[str, Any]]:
    """Return the known fields, as a map of our name to (name in the file, value), and the metadata. Null counts as absent."""
    found: dict[str, tuple[str, Any]] = {}
    metadata = row.metadata
    for name, value in row.fields.items():
        ours = reading.ours.get(name)
        if ours is None:
            metadata[name] = value
        elif value is not None:
            if ours in found:  # two aliases of one field: use the preferred name; the other becomes metadata
                rank = reading.names[ours].index
                best, other = sorted([found[ours], (name, value)], key=lambda pair: rank(pair[0]))
                found[ours], metadata[other[0]] = best, other[1]
            else:
                found[ours] = (name, value)
    return found, metadata


def _convert_fields(row: Row, found: dict[str, tuple[str, Any]], reading: Reading) -> tuple[dict[str, Any], Fault | None]:
    """Return the valid values by our field names, and the first fault."""
    values: dict[str, Any] = {}
    fault = row.fault
    for ours, (name, value) in found.items():
        try:
            if ours in MEDIA_KINDS:
                place = Place(reading.source.path, row.content, row.offset)
                values[ours] = read_references(value, MEDIA_KINDS[ours], place, reading.root)
            else:
                values[ours] = _CONVERTERS[ours](value)
        except SampleError as error:
            fault = fault or find_fault(reading.source, row.line, error, name)
    return values, fault
