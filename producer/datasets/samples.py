"""Convert a row to a ``Sample``. All formats share this code.

Known fields become fields of the sample (``rows.ALIASES``), and all other fields its metadata. An invalid row becomes a sample
with a ``fault`` that names file, line and field.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from string import ascii_uppercase
from typing import Any, TypeVar

import msgspec

from common.digests import digest_bytes
from common.errors import ConfigError, SampleError
from common.records import Fault, Kind, Sample
from common.spec.models import DatasetSource
from producer.datasets.fields import infer_kind, is_blank, read_mathvista_kind, to_index, to_kind, to_question, to_target, to_text
from producer.datasets.media import MediaKind, Place, Reference, read_references
from producer.datasets.media_files import pin_reference
from producer.datasets.metadata import to_metadata
from producer.datasets.rows import NamedColumns, Reading, Row, find_fault, plan_reading
from producer.datasets.values.choices import are_listed, find_positions, to_letters, to_options, to_positions
from producer.datasets.values.conversations import Conversation, holds_messages, read_conversation
from producer.datasets.values.media_columns import find_numbered, list_own_media
from producer.datasets.values.turn_lists import join_turns

_ENCODER = msgspec.json.Encoder()
Value = TypeVar("Value")


def read_samples(source: DatasetSource, rows: Iterator[Row]) -> Iterator[Sample]:
    """Yield a sample for each of the first ``source.limit`` rows.

    Raises ``ConfigError`` if ``source.fields`` maps an unknown name, if ``fields`` or ``ignore`` names a column that is missing in
    all rows, or if there are no rows.
    """
    reading = plan_reading(source)
    named = NamedColumns(source)
    row = None
    for row in islice(rows, source.limit):
        named.add_row(row)
        yield to_sample(row, reading)
    named.check()
    if row is None:
        raise ConfigError(
            f"dataset {source.name!r}: {source.path} holds no rows; expected at least one; check that the file is complete"
        )


def to_sample(row: Row, reading: Reading) -> Sample:
    """Return the sample of a row. Read all valid fields, even in an invalid row. Of several faults, the sample has the first."""
    reading = row.reading or reading
    source = reading.source
    fields = RowFields(row, reading)
    options = fields.read("options", to_options) or {}
    target = fields.read("target", to_target) or ()
    conversation = fields.read_conversation()
    question, hint, group = fields.read_question(conversation), fields.read("hint", to_text), fields.read("group", to_index)
    if conversation and conversation.target and not target:
        target = (conversation.target,)
    kind = source.kind or fields.read("kind", to_kind) or fields.find_kind(options, target)
    if kind == "multiple_choice" and options and not fields.fault:
        target = fields.read_letters(options, target)
    references = list(conversation.media) if conversation else fields.media
    if source.media_digest:
        references = [pin_reference(reference) for reference in references]
    keys = [key if media.number is None else f"{key}#{media.number}" for media, key in references]
    messages = conversation.messages if conversation else ()
    if fields.fault is None:
        asked: tuple[Any, ...] = (source.name, question, hint, options, kind, target, keys, group)
        if messages:
            asked = (*asked, [(message.role, message.content) for message in messages])
        sample_id = digest_bytes(_ENCODER.encode(asked))
    else:
        sample_id = digest_bytes(f"fault\n{source.name}\n".encode() + row.content.strip())
    return Sample(
        sample_id=sample_id,
        dataset=source.name,
        row=row.number,
        index=fields.read("id", to_index) or str(row.number),
        kind=kind,
        question=question,
        hint=hint,
        options=options,
        target=target,
        media=tuple([reference.media for reference in references]),
        messages=messages,
        group=group or (digest_bytes("\n".join(keys).encode(), size=8) if keys else sample_id),
        metadata={name: to_metadata(value) for name, value in fields.metadata.items()},
        fault=fields.fault,
    )


class RowFields:
    """The known fields of a row, its metadata, and its first fault.

    ``found`` maps our name of a field to a pair: its name in the file, and its value. ``media`` lists the row's own media in order.
    """

    def __init__(self, row: Row, reading: Reading) -> None:
        self.fault: Fault | None = row.fault
        self._row = row
        self._reading = reading
        self.found, self.metadata = sort_fields(row, reading)
        self.media = self._read_own_media()

    def read(self, ours: str, convert: Callable[[Any], Value]) -> Value | None:
        """Return the converted value of a field, or None if the field is missing or faulty."""
        if ours not in self.found:
            return None
        name, value = self.found[ours]
        try:
            return convert(value)
        except SampleError as error:
            self._add_fault(error, name)
            return None

    def read_conversation(self) -> Conversation | None:
        asks_turns = self._reading.source.asks_turns
        return self.read("messages", lambda value: read_conversation(value, self.media, self._read_media, asks_turns=asks_turns))

    def read_question(self, conversation: Conversation | None) -> str:
        if conversation:
            return conversation.question
        question = self.read("question", to_question) or self._reading.source.question or ""
        if not question.strip() and "messages" not in self.found:
            missing = SampleError("missing_question", "absent, null or blank; expected the question's text")
            self._add_fault(missing, self._reading.names["question"][0])
        return question

    def find_kind(self, options: dict[str, str], target: tuple[str, ...]) -> Kind:
        """Return the kind of a row if neither its source nor its fields set the kind."""
        try:
            if kind := read_mathvista_kind(self.metadata, has_options=bool(options)):
                return kind
        except SampleError as error:
            self._add_fault(error, "question_type")
        if options:
            return "multiple_choice"
        return self._reading.source.found_kind or infer_kind(target, self._row.kind)

    def read_letters(self, options: dict[str, str], target: tuple[str, ...]) -> tuple[str, ...]:
        """Return the target of a multiple-choice row as letters."""
        if "target_index" in self.found:
            letters = self.read("target_index", lambda value: find_positions(to_positions(value), options))
        else:
            if "target" not in self.found:  # the target is the last turn of a conversation
                self.found["target"] = (self.found["messages"][0] if target else "", list(target))
            is_list = are_listed(self.found["options"][1])
            letters = self.read("target", lambda value: to_letters(value, options, are_listed=is_list))
        return target if letters is None else letters

    def _read_own_media(self) -> list[Reference]:
        name = ""

        def read(column: str, value: Any, kind: MediaKind) -> list[Reference]:
            nonlocal name
            name = column
            return self._read_media(value, kind)

        try:
            return list_own_media(self._row, self.found, self.metadata, self._reading, read)
        except SampleError as error:
            self._add_fault(error, name)
            return list(self._row.media)

    def _read_media(self, value: Any, kind: MediaKind) -> list[Reference]:
        place = Place(self._reading.source.path, self._row.content, self._row.offset)
        return read_references(value, kind, place, self._reading.root)

    def _add_fault(self, error: SampleError, name: str) -> None:
        self.fault = self.fault or find_fault(self._reading.source, self._row.line, error, name)


def sort_fields(row: Row, reading: Reading) -> tuple[dict[str, tuple[str, Any]], dict[str, Any]]:
    """Return the known fields and the metadata. The known fields map our name to a pair: the name in the file, and the value.

    Null counts as absent. The columns image_1, image_2, … are one field (``NUMBERED``). The columns A, B, … are the options if no
    other field has options. A row with a question is not read as a conversation, unless the source maps a column to ``messages``.
    If the turns are asked one after the other, a question that is a list of turns is a conversation.
    """
    found: dict[str, tuple[str, Any]] = {}
    numbered, names = find_numbered(row.fields, reading)
    metadata, skipped = row.metadata, {*reading.source.ignore, *names}
    for name, value in row.fields.items():
        ours = reading.ours.get(name)
        if name in skipped:
            continue
        if ours is None or (name == "body" and not holds_messages(value) and name not in reading.source.fields.values()):
            metadata[name] = value
        elif value is not None:
            if ours in found:  # the row has two aliases of one field: use the preferred alias with a value, and keep the other
                rank = reading.names[ours].index
                best, other = sorted([found[ours], (name, value)], key=lambda pair: (is_blank(pair[1]), rank(pair[0])))
                found[ours], metadata[other[0]] = best, other[1]
            else:
                found[ours] = (name, value)
    found |= {ours: (next(iter(columns)), columns) for ours, columns in numbered.items() if columns}
    letters = [name for name in ascii_uppercase if name in metadata]
    if letters[:2] == ["A", "B"] and is_blank(found.get("options", ("", None))[1]) and _are_plain(metadata, letters):
        if "options" in found:
            name, metadata[name] = found["options"]
        found["options"] = (letters[0], {name: metadata.pop(name) for name in letters})
    if "messages" in found and "messages" not in reading.source.fields and not is_blank(found.get("question", ("", None))[1]):
        name, metadata[name] = found.pop("messages")
    if reading.source.asks_turns:
        join_turns(found)
    return found, metadata


def _are_plain(metadata: dict[str, Any], letters: list[str]) -> bool:
    """Return whether the columns A, B, … hold texts or numbers. Null counts as an absent option."""
    return all(metadata[name] is None or isinstance(metadata[name], str | int | float) for name in letters)
