"""The facts that one pass over the rows of a dataset finds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from common.errors import SampleError
from common.prompts.markers import find_markers
from common.records import Kind
from common.spec.models import DatasetSource
from producer.datasets.columns import Column
from producer.datasets.fields import read_mathvista_kind, to_target
from producer.datasets.media import MediaKind, Reference, find_path, name_references
from producer.datasets.media_files import FileProblem, MediaFiles, UnreadableFile
from producer.datasets.registry import find_reader
from producer.datasets.rows import MEDIA_KINDS, NamedColumns, Row, plan_reading
from producer.datasets.samples import sort_fields
from producer.datasets.survey.kinds import Kinds
from producer.datasets.survey.turns import TurnFacts
from producer.datasets.values.choices import to_options
from producer.datasets.values.conversations import read_conversation
from producer.datasets.values.literals import is_unclear_list
from producer.datasets.values.media_columns import NUMBERED, NumberedColumns, list_media_columns, list_own_media
from producer.datasets.values.turn_lists import TurnList, find_turns
from producer.progress import show_progress

_MOST_COLUMNS = 1_000  # further columns are not surveyed, so that memory is bounded


def collect_facts(source: DatasetSource, roots: Sequence[str] = ()) -> "Facts":
    """Read all rows of a resolved source. Raises ``ConfigError`` if ``fields`` or ``ignore`` names a missing column."""
    facts, named = Facts(source, roots), NamedColumns(source)
    undigested = source.model_copy(update={"digest_media": "never"})  # the survey does not use the digests of byte ranges of a tar
    for row in show_progress(islice(find_reader(source)(undigested), source.limit), "surveying rows"):
        named.add_row(row)
        facts.add_row(row)
    named.check()
    return facts


@dataclass
class Facts:
    """The facts that a pass over the rows of a dataset finds.

    - ``bad_files`` maps each reason to the first file that could not be read for this reason, and to the field that names it.
    - ``used`` counts the rows that use each of our fields.
    - ``mapped`` counts the rows by our field and the column that fills it. The column is empty for media that the format itself
      gives, such as the images of a folder.
    - ``columns`` contains the columns that no field uses.
    - ``unclear_targets`` counts the rows whose target looks like a list, but is one text, by column.
    - ``unmatched_markers`` counts the rows with a marker and without media, and ``with_media`` the rows with media.
    """

    source: DatasetSource
    roots: Sequence[str] = ()
    seen: dict[str, None] = field(default_factory=dict)  # all names of columns, except those above the limit
    readable: int = 0  # rows that the reader could read
    bad_files: dict[FileProblem, tuple[UnreadableFile, str | None]] = field(default_factory=dict)
    kinds: Kinds = field(default_factory=Kinds)
    used: Counter[str] = field(default_factory=Counter)
    mapped: Counter[tuple[str, str]] = field(default_factory=Counter)
    columns: dict[str, Column] = field(default_factory=dict)
    unclear_targets: Counter[str] = field(default_factory=Counter)
    unmatched_markers: int = 0
    with_media: int = 0
    turns: TurnFacts = field(default_factory=TurnFacts)

    def __post_init__(self) -> None:
        self.reading = plan_reading(self.source)
        self.files = MediaFiles(self.source, self.roots)

    def add_row(self, row: Row) -> None:
        self.reading = row.reading or self.reading
        names = row.fields if row.columns is None else row.columns
        if len(self.seen) < _MOST_COLUMNS:
            self.seen.update(dict.fromkeys(names))
        self.readable += row.fault is None
        known = {*self.reading.ours, *row.metadata}  # the reader has already used the columns that it adds to the metadata
        found, unused = sort_fields(row, self.reading)
        self.used.update(list(found))
        self._count_columns(row, found)
        self.turns.listed += "question" in found and find_turns(found["question"][1]) is not None
        references, last_turn = self._read_media(row, found, unused)
        self.with_media += bool(references)
        if (bad_file := self.files.add_row(references)) and bad_file.problem not in self.bad_files:
            self.bad_files[bad_file.problem] = bad_file, self._find_field(found, bad_file.reference)
        if "target" in found and isinstance(answer := found["target"][1], str) and is_unclear_list(answer):
            self.unclear_targets[found["target"][0]] += 1
        target, options = _try(to_target, found.get("target")) or ((last_turn,) if last_turn else ()), found.get("options")
        shown = {path for reference in references if (path := find_path(reference.media))}
        for name, value in unused.items():
            if shown and isinstance(value, str) and (value in shown or f"{self.reading.root}/{value}" in shown):
                continue  # the column contains the file names of media that another column gives
            if name in self.columns or (name not in known and len(self.columns) < _MOST_COLUMNS):
                self.columns.setdefault(name, Column()).add(value, self.reading.root, target)
        texts = (str(found[name][1]) for name in ("question", "hint", "options") if name in found)
        self.unmatched_markers += not references and any(next(find_markers(text), None) for text in texts)
        if "kind" not in found and not (options and _try(to_options, options)) and not _try_mathvista(unused):
            self.kinds.add(target, row.kind)

    def pin_source(self, *, reads_media: bool = True) -> DatasetSource:
        """Return the source with the digest of its media files and the kind of its rows without options."""
        found = {"media_digest": self.files.digest() if reads_media else None, "found_kind": self.kinds.find_kind()}
        return self.source.model_copy(update=found)

    @property
    def used_fields(self) -> Counter[str]:
        """Return the number of rows that use each of our fields. A row with media of any origin uses ``image``."""
        return self.used + Counter(image=self.with_media)

    def _count_columns(self, row: Row, found: dict[str, tuple[str, Any]]) -> None:
        for ours, (theirs, value) in found.items():
            if isinstance(value, TurnList) and value.answers_name:
                self.mapped["target", value.answers_name] += 1
            # The columns A, B, … are one field. The reader of VLMEvalKit's TSV has already joined them.
            is_joined = isinstance(value, dict) and (theirs == "A" or theirs not in (row.columns or row.fields))
            if isinstance(value, NumberedColumns):
                ours, is_joined = next(kind for kind, field in NUMBERED.items() if field == ours), True
            self.mapped.update([(ours, column) for column in (value if is_joined else [theirs])])
        if row.media and not any(ours in found for ours in (*MEDIA_KINDS, *NUMBERED.values())):
            names = [name for name in row.columns or () if self.reading.ours.get(name) in MEDIA_KINDS]
            self.mapped[row.media[0].media.kind, names[0] if names else ""] += 1

    def _read_media(
        self, row: Row, found: dict[str, tuple[str, Any]], unused: dict[str, Any]
    ) -> tuple[list[Reference], str | None]:
        """Return the media of a row, without their content, and the last turn of the assistant in a conversation."""
        references = list(row.media)
        try:
            references = list_own_media(row, found, unused, self.reading, lambda _, value, kind: self._name_media(value, kind))
            if "messages" not in found:
                return references, None
            value, asks_turns = found["messages"][1], self.source.asks_turns
            conversation = read_conversation(value, references, self._name_media, asks_turns=asks_turns)
        except SampleError:  # the row gets a fault when it is read
            return references, None
        self.turns.add_conversation(conversation.messages)
        return list(conversation.media), conversation.target

    def _find_field(self, found: dict[str, tuple[str, Any]], reference: Reference) -> str | None:
        """Return the field in the file that names an image or video, or None if the reader itself has found the file."""
        for kind, name, value in list_media_columns(found):
            if reference in self._name_media(value, kind):
                return name
        return found["messages"][0] if "messages" in found else None

    def _name_media(self, value: Any, kind: MediaKind) -> list[Reference]:
        return name_references(value, kind, self.reading.root)


def _try(convert: Any, found: tuple[str, Any] | None) -> Any:
    """Return the converted value, or None for a value that makes the row faulty."""
    if found is None:
        return None
    try:
        return convert(found[1])
    except SampleError:
        return None


def _try_mathvista(unused: dict[str, Any]) -> Kind | None:
    try:
        return read_mathvista_kind(unused, has_options=True)
    except SampleError:
        return None
