"""From a row to a ``Sample``: the part of reading that all formats share.

Names in the file are looked up by ``source.fields``, which maps our names to the file's, else by ``ALIASES``.  All other
fields go to the sample's metadata.  A row at fault becomes a sample with a ``fault`` that names file, line and field.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from common.errors import ConfigError, SampleError
from common.identity import digest_bytes
from common.records import Fault, Kind, Sample
from common.spec import DatasetSource
from common.spec_files import suggest
from producer.datasets.fields import infer_kind, to_group, to_index, to_kind, to_options, to_target, to_text
from producer.datasets.media import MediaKind, Place, Reference, read_references

Value = TypeVar("Value")

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

_ENCODER = msgspec.json.Encoder()


@dataclass(slots=True)
class Row:
    """One row as a format reads it.

    ``number`` counts rows from 0, ``line`` is the 1-based line where the row begins, ``content`` its bytes.  ``offset`` says where
    these lie in the file, if they lie there as they are: then large base64 need not be copied out of it.  ``fields`` has the
    row's raw values by the file's names, as JSON would give them and with text that UTF-8 can hold; reading uses it up.
    A format with its own rules gives the row's ``media`` or ``kind`` itself.  ``columns`` are the names that the row could
    have, where these are more than ``fields`` shows.
    """

    number: int
    line: int
    content: bytes
    offset: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    media: list[Reference] | None = None
    kind: Kind | None = None
    fault: Fault | None = None
    columns: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading a dataset takes from its source: ``names`` gives the file's possible names for each of ours."""

    source: DatasetSource
    root: str
    names: dict[str, tuple[str, ...]]


def read_samples(source: DatasetSource, rows: Iterator[Row]) -> Iterator[Sample]:
    """Yield a sample for each of the first ``source.limit`` rows.

    Raises ``ConfigError`` if ``source.fields`` maps a name that is not ours, or one to a field that no row has.
    """
    reading = plan_reading(source)
    unseen, met = set(source.fields.values()), set[str]()
    for row in islice(rows, source.limit):
        if unseen:
            met.update(row.fields if row.columns is None else row.columns)
            unseen -= met
        yield to_sample(row, reading)
    if unseen and met:
        raise ConfigError(explain_unmapped(source, min(unseen), sorted(met)))


def plan_reading(source: DatasetSource) -> Reading:
    """Return how to read a source.  Raises ``ConfigError`` if it maps a name that is not ours."""
    if strange := [name for name in source.fields if name not in ALIASES]:
        raise ConfigError(
            f"dataset {source.name!r}: fields: {strange[0]!r} is none of our field names{suggest(strange[0], list(ALIASES))}; "
            f"expected OURS: THE FILE'S, where ours is one of {', '.join(ALIASES)}"
        )
    mapped = {name: (theirs,) for name, theirs in source.fields.items()}
    return Reading(source, source.media_root or str(Path(source.path).parent), ALIASES | mapped)


def explain_unmapped(source: DatasetSource, missing: str, known: list[str]) -> str:
    """Return the message for a mapping to a field that the file does not have."""
    ours = next(name for name, theirs in source.fields.items() if theirs == missing)
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    where = f"dataset {source.name!r}: fields.{ours}: {source.path} has no field {missing!r}"
    return f"{where}{suggest(missing, known)}; expected one of: {shown}"


def find_fault(source: DatasetSource, line: int, error: SampleError, name: str | None = None) -> Fault:
    """Return the fault of a row, with the place where a person finds it."""
    place = f"{Path(source.path).name}: line {line}" + (f": field {name!r}" if name else "")
    return Fault(code=error.code, message=f"{place}: {error}")


def to_sample(row: Row, reading: Reading) -> Sample:
    """Return a row's sample.  Of several faults the first is kept; what can be read is read all the same."""
    source, fields = reading.source, row.fields
    faults = [row.fault] if row.fault else []

    def read(ours: str, convert: Callable[[Any], Value]) -> Value | None:
        for name in reading.names[ours]:
            value = fields.pop(name, None)
            if value is not None:
                try:
                    return convert(value)
                except SampleError as error:
                    faults.append(find_fault(source, row.line, error, name))
                    return None
        return None

    index = read("id", to_index)
    question = read("question", to_text) or ""
    hint = read("hint", to_text)
    options = read("options", to_options) or {}
    target = read("target", to_target) or ()
    # a kind that the format knows yields only to one that the user has mapped
    named_kind = read("kind", to_kind) if row.kind is None or "kind" in source.fields else None
    named_group = read("group", to_group)
    references = _read_media(row, reading, read) if row.media is None else row.media
    if not question.strip() and not faults:
        missing = SampleError("missing_question", "absent, null or blank; expected the question's text")
        faults.append(find_fault(source, row.line, missing, reading.names["question"][0]))

    kind = source.kind or named_kind or row.kind or infer_kind(options, target)
    keys = [reference.key for reference in references]
    if faults:
        sample_id = digest_bytes(f"fault\n{source.name}\n".encode() + row.content.strip())
    else:
        sample_id = digest_bytes(_ENCODER.encode((source.name, question, hint, options, kind, target, keys, named_group)))
    return Sample(
        sample_id=sample_id,
        dataset=source.name,
        index=row.number if index is None else index,
        kind=kind,
        question=question,
        hint=hint,
        options=options,
        target=target,
        media=tuple([reference.media for reference in references]),
        group=named_group or (digest_bytes("\n".join(keys).encode(), size=8) if keys else sample_id),
        metadata=fields,
        fault=faults[0] if faults else None,
    )


def _read_media(row: Row, reading: Reading, read: Callable[..., list[Reference] | None]) -> list[Reference]:
    """Return the images (from ``image``, or else from ``image_path``), then the videos."""
    place = Place(reading.source.path, row.content, row.offset)

    def read_kind(kind: MediaKind) -> Callable[[Any], list[Reference]]:
        return lambda value: read_references(value, kind, place, reading.root)

    images = read("image", read_kind("image")) or read("image_path", read_kind("image")) or []
    return images + (read("video", read_kind("video")) or [])
