"""Survey a dataset before planning, in one pass over its rows.

The survey finds:

- the digest of the content of media files,
- the question kind of rows without options,
- columns that no field uses, but that look like media, options, the target or the question,
- markers without media.

Files that a row names by path can change in place. Up to a limit, their content counts in the run id. Above the limit, they count
by path only, and a log event reports this. The size and time of a file never count, because they are not its content.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

import structlog

from common.errors import ConfigError, SampleError
from common.prompts.built_in import DEFAULT
from common.records import Kind, Media, Record
from common.settings import get_settings
from common.spec.media_roots import find_media_roots
from common.spec.models import DatasetSource, RunSpec
from producer.console.progress import show_progress
from producer.datasets.collections.folders import start_reports
from producer.datasets.columns import Column, suggest_field, suggest_mapping, write_mapping
from producer.datasets.fields import are_yes_no, is_number, read_mathvista_kind, to_target
from producer.datasets.media import MediaKind, Reference, find_path, list_media, refer
from producer.datasets.media_files import FileProblem, MediaFiles, UnreadableFile
from producer.datasets.registry import find_reader
from producer.datasets.rows import MEDIA_KINDS, NamedColumns, Row, plan_reading
from producer.datasets.samples import sort_fields
from producer.datasets.values.base64_text import is_base64_image
from producer.datasets.values.choices import to_options
from producer.datasets.values.conversations import read_conversation
from producer.datasets.values.literals import is_unclear_list
from producer.datasets.values.media_columns import NUMBERED, NumberedColumns, list_media_columns, list_own_media

log = structlog.get_logger()

_MOST_COLUMNS = 1_000  # further columns are not surveyed, so that memory is bounded

_MARKER = re.compile(r"<(image|video)( ?\d+)?>")


class Notice(Record):
    """A probable mistake in a dataset.

    - ``rows`` counts the affected rows, and ``hint`` describes how to correct the mistake.
    - ``column`` is the affected column, and ``looks_like`` the field that it looks like.
    - ``path`` is the first file that a worker could not read. ``column`` is then the field that names this file.
    """

    event: str
    dataset: str
    column: str | None = None
    rows: int
    looks_like: str | None = None
    path: str | None = None
    hint: str


class Survey(NamedTuple):
    """The result of a survey.

    - ``source`` is the surveyed source, with its media digest and the kind of its rows.
    - ``notices`` are for the user.
    - ``refusal`` is the reason why the dataset must not be enqueued, or None.
    - ``rows`` counts the rows that the reader could read, and ``conversations`` counts the rows with a conversation.
    """

    source: DatasetSource
    notices: tuple[Notice, ...]
    refusal: str | None = None
    rows: int = 0
    conversations: int = 0


def survey_specs(specs: Sequence[RunSpec]) -> tuple[list[RunSpec], list[Notice]]:
    """Return the specs of one spec file with surveyed datasets, and the notices. All specs must have the same datasets.

    Log each notice as a warning. Raises the errors of ``survey_dataset``, and ``ConfigError`` if a dataset does not have questions
    or all of its media are missing.
    """
    start_reports()
    first = specs[0]
    roots = find_media_roots(get_settings(), first.datasets, first.prompt.examples)
    surveys = [survey_dataset(source, roots) for source in first.datasets]
    if refusals := [survey.refusal for survey in surveys if survey.refusal]:
        raise ConfigError(refusals[0])
    notices = [notice for survey in surveys for notice in survey.notices]
    if any(spec.prompt.turns or spec.prompt.template != DEFAULT for spec in specs):
        notices += _find_unused_template(surveys)
    for notice in notices:
        _log_notice(notice)
    datasets = tuple(survey.source for survey in surveys)
    return [spec.model_copy(update={"datasets": datasets}) for spec in specs], notices


def _find_unused_template(surveys: Sequence[Survey]) -> list[Notice]:
    """Return a notice for each dataset if no row of any dataset uses the template of the prompt."""
    if any(survey.conversations < survey.rows for survey in surveys):
        return []
    event, hint = (
        "prompt.template_unused",
        "all rows have conversations, which are sent as written; use prompt.suffix",
    )
    return [Notice(event=event, dataset=survey.source.name, rows=survey.rows, hint=hint) for survey in surveys]


def _log_notice(notice: Notice) -> None:
    name, rows, hint, column = notice.dataset, notice.rows, notice.hint, notice.column
    if notice.event == "dataset.media_missing":
        log.warning("dataset.media_missing", dataset=name, column=column, rows=rows, path=notice.path, hint=hint)
    elif notice.event == "dataset.target_unclear":
        log.warning("dataset.target_unclear", dataset=name, column=column, rows=rows, hint=hint)
    elif notice.event == "prompt.template_unused":
        log.warning("prompt.template_unused", dataset=name, rows=rows, hint=hint)
    elif notice.event == "dataset.marker_without_media":
        log.warning("dataset.marker_without_media", dataset=name, rows=rows, hint=hint)
    else:
        log.warning("dataset.column_unused", dataset=name, column=column, looks_like=notice.looks_like, rows=rows, hint=hint)


def survey_dataset(source: DatasetSource, roots: Sequence[Path] = ()) -> Survey:
    """Return the survey of a resolved source. ``roots`` are the folders that media may be read from.

    Raises ``ConfigError`` if no row has media, but a column that no field uses certainly contains media. Otherwise the questions
    would be sent without these media.
    """
    facts = collect_facts(source, roots)
    facts.check_media()
    refusal = facts.find_refusal()
    surveyed = facts.pin_source(reads_media=refusal is None)
    return Survey(surveyed, tuple(facts.find_notices()), refusal, facts.readable, facts.used["messages"])


def collect_facts(source: DatasetSource, roots: Sequence[Path] = ()) -> "Facts":
    """Read all rows of a resolved source. Raises ``ConfigError`` if ``fields`` or ``ignore`` names a missing column."""
    facts, named = Facts(source, roots), NamedColumns(source)
    undigested = source.model_copy(update={"digest_media": "never"})  # the survey does not use the digests of byte ranges of a tar
    for row in show_progress(islice(find_reader(source)(undigested), source.limit), "surveying rows"):
        named.add_row(row)
        facts.add_row(row)
    named.check()
    return facts


@dataclass
class _Kinds:
    """The accepted answers of rows without options and without a kind field."""

    rows: int = 0
    answered: int = 0
    yes_no: int = 0
    numbers: int = 0
    format_kinds: dict[bool, set[Kind | None]] = field(default_factory=dict)  # the keys: rows with and without answers

    def add(self, target: tuple[str, ...], format_kind: Kind | None) -> None:
        self.rows += 1
        self.format_kinds.setdefault(bool(target), set()).add(format_kind)
        if target:
            self.answered += 1
            self.yes_no += are_yes_no(target)
            self.numbers += all(is_number(text) for text in target)

    def find_kind(self) -> Kind | None:
        """Return the kind of all these rows, or None if there are no such rows.

        A row's own target does not determine its kind, because the wording of its prompt would then reveal the target.
        """
        if not self.rows:
            return None
        if self.answered and self.yes_no == self.answered:
            return "yes_no"
        given = self.format_kinds[bool(self.answered)]
        if (kind := next(iter(given)) if len(given) == 1 else None) or not self.answered:
            return kind or "free_text"
        return "number" if self.numbers == self.answered else "short_text"


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
    roots: Sequence[Path] = ()
    seen: dict[str, None] = field(default_factory=dict)  # all names of columns, except those above the limit
    readable: int = 0  # rows that the reader could read
    bad_files: dict[FileProblem, tuple[UnreadableFile, str | None]] = field(default_factory=dict)
    kinds: _Kinds = field(default_factory=_Kinds)
    used: Counter[str] = field(default_factory=Counter)
    mapped: Counter[tuple[str, str]] = field(default_factory=Counter)
    columns: dict[str, Column] = field(default_factory=dict)
    unclear_targets: Counter[str] = field(default_factory=Counter)
    unmatched_markers: int = 0
    with_media: int = 0

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
        if not references and any(_MARKER.search(str(found[name][1])) for name in ("question", "hint", "options") if name in found):
            self.unmatched_markers += 1
        if "kind" not in found and not (options and _try(to_options, options)) and not _try_mathvista(unused):
            self.kinds.add(target, row.kind)

    def pin_source(self, *, reads_media: bool = True) -> DatasetSource:
        """Return the source with the digest of its media files and the kind of its rows without options."""
        found = {"media_digest": self.files.digest() if reads_media else None, "found_kind": self.kinds.find_kind()}
        return self.source.model_copy(update=found)

    def check_media(self) -> None:
        if self.with_media:
            return
        for name, column in self.columns.items():
            if column.holds_media:
                mapping = write_mapping(self._suggest() | {column.media or "image": name})
                raise ConfigError(
                    f"dataset {self.source.name!r}: {self.source.path}: column {name!r} holds media in {column.rows:,} rows, and "
                    f"no field uses it, so the questions would be sent without media; expected {mapping} in the dataset, or "
                    f"ignore: [{name}] to send them without it"
                )

    def find_refusal(self) -> str | None:
        """Return the message for a dataset without questions, or with only missing media, or None.

        Missing media are accepted if media files are not read on this machine (``digest_media: never``).
        """
        if self.readable and not (self.source.question or self.used["question"] or self.used["messages"]):
            return self._explain_no_question()
        if not self.files.are_all_absent or self.source.digest_media == "never":
            return None
        bad_file, column = self.bad_files[FileProblem.ABSENT]
        return (
            f"dataset {self.source.name!r}: the media of all {self.files.checked:,} rows with media are missing: the first, "
            f"{bad_file.path} (field {column!r}), {bad_file.problem}. Relative paths start at media_root ({self.reading.root}); "
            "expected the files there: correct the paths or media_root. If only the workers have the files, set "
            "digest_media: never in the dataset"
        )

    def _explain_no_question(self) -> str:
        columns, mapping = ", ".join(list(self.seen)[:20]) or "none", self._suggest()
        given = "question: TEXT in the dataset, which is the question of every row"
        if mapping.keys() & {"question", "messages"}:
            expected = f"{write_mapping(mapping)} in the dataset"
        elif self.with_media:
            expected = f"{given}, or fields: {{question: COLUMN}}"
        else:
            expected = f"{write_mapping({'question': 'COLUMN', **mapping})} in the dataset, or {given}"
        return f"dataset {self.source.name!r}: {self.source.path}: no row has a question; columns: {columns}; expected {expected}"

    def _suggest(self) -> dict[str, str]:
        return suggest_mapping(self.columns, self.used + Counter(image=self.with_media))

    def find_notices(self) -> Iterator[Notice]:
        name = self.source.name
        for problem, (file, named) in self.bad_files.items():
            event, rows, hint = "dataset.media_missing", self.files.rows[problem], f"the file {problem}; {_REMEDIES[problem]}"
            yield Notice(event=event, dataset=name, column=named, rows=rows, path=file.path, hint=hint)
        for theirs, column in self.columns.items():
            if ours := suggest_field(theirs, column, self.used + Counter(image=self.with_media)):
                hint = f"use it with {write_mapping({ours: theirs})}, or leave it out with ignore: [{theirs}]"
                event = "dataset.column_unused"
                yield Notice(event=event, dataset=name, column=theirs, rows=column.rows, looks_like=ours, hint=hint)
        used = {column: ours for ours, column in self.mapped}
        for theirs, column in self.columns.items():
            near = theirs.strip("\ufeff \t").casefold()
            if column.rows and near in used and theirs not in used:
                hint = f"column {near!r} is used, and its name differs only in case or spaces; leave it out with ignore: [{theirs}]"
                event, ours = "dataset.column_unused", used[near]
                yield Notice(event=event, dataset=name, column=theirs, rows=column.rows, looks_like=ours, hint=hint)
        letters = [letter for letter in ascii_uppercase if letter in self.columns and self.columns[letter].rows]
        if self.used["options"] and letters[:2] == ["A", "B"]:
            rows, columns = self.columns["A"].rows, ", ".join(letters)
            hint = (
                f"another field gives the options, so the columns {columns} are not shown; leave them out with ignore: [{columns}]"
            )
            yield Notice(event="dataset.column_unused", dataset=name, column="A", rows=rows, looks_like="options", hint=hint)
        for theirs, rows in self.unclear_targets.items():
            hint = (
                "answers look like lists, such as [1, 2], but each counts as one text; for several accepted answers, write a "
                "list of quoted texts, such as ['1', '2']; otherwise, no change is necessary"
            )
            yield Notice(event="dataset.target_unclear", dataset=name, column=theirs, rows=rows, hint=hint)
        if self.unmatched_markers:
            hint = "texts contain <image> or <video>, and the rows have no media; map the column of the media with fields"
            yield Notice(event="dataset.marker_without_media", dataset=name, rows=self.unmatched_markers, hint=hint)

    def _count_columns(self, row: Row, found: dict[str, tuple[str, Any]]) -> None:
        for ours, (theirs, value) in found.items():
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
            conversation = read_conversation(found["messages"][1], references, self._name_media)
        except SampleError:  # the row gets a fault when it is read
            return references, None
        return list(conversation.media), conversation.target

    def _find_field(self, found: dict[str, tuple[str, Any]], reference: Reference) -> str | None:
        """Return the field in the file that names an image or video, or None if the reader itself has found the file."""
        for kind, name, value in list_media_columns(found):
            if reference in self._name_media(value, kind):
                return name
        return found["messages"][0] if "messages" in found else None

    def _name_media(self, value: Any, kind: MediaKind) -> list[Reference]:
        if (values := list_media(value)) != [value]:
            return [reference for one in values for reference in self._name_media(one, kind)]
        if isinstance(value, dict):
            parts = [value[name] for name in ("bytes", "url", "path") if value.get(name)]
            return [_embed(kind)] if value.get("bytes") else self._name_media(parts[0], kind) if parts else []
        if isinstance(value, bytes):
            return [_embed(kind)]
        if not isinstance(value, str) or not value or value.isspace():
            return []
        try:
            is_embedded = value.lstrip()[:5].lower() == "data:" or is_base64_image(value)
            return [_embed(kind)] if is_embedded else [refer(value, kind, self.reading.root)]
        except SampleError:
            return []


_REMEDIES = {
    FileProblem.ABSENT: (
        "relative paths start at media_root; if only the workers have the files, digest_media: never skips their digests"
    ),
    FileProblem.UNREADABLE: "expected a file that this user may read; check its permissions",
    FileProblem.OUTSIDE: "set the dataset's media_root, or start the workers with FLEET_MEDIA_ROOTS",
}


def _embed(kind: MediaKind) -> Reference:
    """Return a reference that stands for embedded media. The survey does not read their content."""
    return Reference(Media(kind=kind, data=""), "")


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
