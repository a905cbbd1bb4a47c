"""Inspect a dataset before a spec exists: its recognised format and fields, its first requests, and the lines for a spec."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.errors import ConfigError
from common.prompts.messages import render_messages
from common.records import Fault, Kind, Message, Record, Sample
from common.redaction import mask_text
from common.settings import get_settings
from common.spec.dataset_files import is_hub
from common.spec.dataset_paths import find_files
from common.spec.files import check
from common.spec.media_roots import find_media_roots
from common.spec.models import Chunks, DatasetSource, ModelProfile, RunSpec, SamplingParams, Shuffle, Validation, name_dataset
from common.spec.prompts import MultiTurn, PromptSpec
from common.storage.addresses import is_remote
from producer.datasets.columns import suggest_field
from producer.datasets.media import find_size
from producer.datasets.media_headers import MediaHeader, read_header
from producer.datasets.registry import check_readable, find_format, read_dataset
from producer.datasets.sources import split_source
from producer.datasets.survey import Notice
from producer.datasets.survey.facts import Facts, collect_facts
from producer.datasets.survey.notices import describe_turns, find_notices
from producer.datasets.survey.refusals import check_media, find_refusal
from producer.planning.plan import find_alike
from producer.planning.requests import render_samples
from producer.planning.shuffle import Counts, digest_twin_key
from producer.progress import show_progress

DEFAULT_QUESTION = "Describe the image."

_NAME_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 64
_MOST_COLUMNS = 1_000  # further columns are not counted, so that memory is bounded


class File(Record):
    """A file of the dataset. ``size_bytes`` is None for a folder and for a dataset on the hub."""

    path: str
    size_bytes: int | None


class MappedColumn(Record):
    """A column, the field that it fills, and its number of rows. ``column`` is empty for media that the format itself gives."""

    field: str
    column: str
    rows: int


class MetadataColumn(Record):
    """A column that no field uses, and the number of rows that fill it. Results keep it as metadata."""

    column: str
    rows: int


class FaultCount(Record):
    """The number of rows with one fault code, and the message of the first such fault."""

    code: str
    rows: int
    first: str


class ShownRow(Record):
    """One row and the messages that a run sends for it. A number in ``messages`` is an index of ``media``."""

    index: str
    kind: Kind
    question: str
    options: dict[str, str]
    target: tuple[str, ...]
    media: tuple[MediaHeader, ...]
    messages: tuple[Message, ...]
    fault: Fault | None


class Inspection(Record):
    """The result of an inspection.

    - ``fields`` lists the columns that fill a field, and ``metadata`` the other columns.
    - ``kinds`` counts the rows without a fault by kind.
    - ``adopted`` explains the options in ``lines`` that the user did not give. The dataset cannot be enqueued without them.
    - ``refusal`` is the reason why the dataset cannot be enqueued, or None.
    - ``lines`` is the YAML for a spec, or None if there is a ``refusal``.
    """

    dataset: str
    format: str
    files: tuple[File, ...]
    rows: int
    unique: int
    duplicates: int
    faulty: int
    fields: tuple[MappedColumn, ...]
    metadata: tuple[MetadataColumn, ...]
    kinds: dict[str, int]
    faults: tuple[FaultCount, ...]
    notices: tuple[Notice, ...]
    adopted: tuple[str, ...]
    first_rows: tuple[ShownRow, ...]
    refusal: str | None
    lines: str | None


def find_source(paths: Sequence[str], format_name: str | None, mappings: Sequence[str]) -> DatasetSource:
    """Return the source that the options of the command describe. ``mappings`` have the form ``OURS=THEIRS``.

    Relative paths start at the current folder, and the paths of the source are absolute. Raises ``ConfigError``.
    """
    fields: dict[str, str] = {}
    for mapping in mappings:
        ours, equals, theirs = mapping.partition("=")
        if not (equals and ours and theirs):
            raise ConfigError(f"--field {mapping!r}: expected OURS=THEIRS, for example --field image=img")
        if ours in fields:
            raise ConfigError(f"--field {mapping!r}: {ours} is mapped to {fields[ours]!r} already; expected one column for a field")
        fields[ours] = theirs
    absolute = [path if is_hub(path) or is_remote(path) else os.path.abspath(path) for path in paths]  # noqa: PTH100  a pattern is not a Path
    raw: dict[str, Any] = {
        "path": absolute if len(absolute) > 1 else absolute[0],
        "name": _make_name(absolute[0]),
        "format": format_name,
        "fields": fields,
    }
    return check(DatasetSource, raw, "producer inspect")


def _make_name(path: str) -> str:
    """Return the default name of a dataset, with ``_`` in place of the characters that a name cannot have."""
    name = _NAME_CHARACTERS.sub("_", name_dataset(path)).strip("._-")
    return name[:_LONGEST_NAME] or "dataset"


def inspect_dataset(asked: DatasetSource, *, most_rows: int) -> Inspection:
    """Return the inspection of a dataset, with its first ``most_rows`` rows. It reads all rows twice, as enqueueing does.

    Memory holds 16 bytes for each row. Raises ``ConfigError`` for a dataset that cannot be read.
    """
    source = find_files(asked, Path.cwd(), "")
    check_readable(source)
    format_name = find_format(split_source(source)[0])
    roots = find_media_roots(get_settings(), [source])
    facts = collect_facts(source, roots)
    if facts.turns.listed and facts.turns.listed == facts.used["question"]:  # such rows can only be asked turn by turn
        source, asked = (one.model_copy(update={"asks_turns": True}) for one in (source, asked))
        facts = collect_facts(source, roots)
    additions, adopted = _adopt(source, facts)
    if additions:
        source, asked = source.model_copy(update=additions), asked.model_copy(update=additions)
        facts = collect_facts(source, roots)
    rows = _Rows(most_rows, Counts([source.name]))
    refusal: str | None = None
    try:
        rows.read(facts.pin_source())
        check_media(facts)
        refusal = find_refusal(facts)
    except ConfigError as error:
        if not rows.counts.rows[0]:
            raise
        refusal = str(error)
    return _describe(facts, rows, asked, format_name, adopted, refusal)


def _describe(
    facts: Facts, rows: "_Rows", asked: DatasetSource, format_name: str, adopted: list[str], refusal: str | None
) -> Inspection:
    (counts,) = rows.counts.to_records()
    return Inspection(
        dataset=asked.name,
        format=format_name,
        files=tuple(_list_files(facts.source)),
        rows=counts.rows,
        unique=counts.unique,
        duplicates=counts.duplicates,
        faulty=rows.counts.faults.total(),
        fields=tuple(MappedColumn(field=ours, column=theirs, rows=count) for (ours, theirs), count in facts.mapped.items()),
        metadata=tuple(MetadataColumn(column=name, rows=count) for name, count in rows.metadata.items()),
        kinds=dict(rows.kinds.most_common()),
        faults=tuple(
            FaultCount(code=code, rows=count, first=rows.first_faults[code]) for code, count in rows.counts.faults.most_common()
        ),
        notices=(
            *find_notices(facts),
            *describe_turns(facts.source.name, facts.turns, asks_turns=facts.source.asks_turns),
            *([] if refusal else find_alike(rows.counts)),
        ),
        adopted=tuple(adopted),
        first_rows=tuple(rows.shown),
        refusal=refusal,
        lines=None if refusal else write_lines(asked),
    )


def _adopt(source: DatasetSource, facts: Facts) -> tuple[dict[str, Any], list[str]]:
    """Return the options without which the dataset cannot be enqueued, and the reason for each."""
    fields, reasons, additions = dict(source.fields), list[str](), dict[str, Any]()
    if source.asks_turns:
        reasons.append("prompt: {multi_turn: ask}: questions are lists of turns")
    if not facts.with_media:
        certain = ((column.media or "image", name) for name, column in facts.columns.items() if column.holds_media)
        for ours, theirs in certain:
            if ours not in fields:
                fields[ours] = theirs
                reasons.append(f"fields: {{{ours}: {theirs}}}: only this column contains media")
                break
    if not (source.question or "question" in fields or facts.used["question"] or facts.used["messages"]):
        named = [name for name, column in facts.columns.items() if suggest_field(name, column, facts.used) == "question"]
        if named:
            fields["question"] = max(named, key=lambda name: facts.columns[name].rows)
            reasons.append(f"fields: {{question: {fields['question']}}}: no column is called question")
        elif facts.with_media or len(fields) > len(source.fields):
            additions["question"] = DEFAULT_QUESTION
            reasons.append(f"question: {DEFAULT_QUESTION} The dataset has no column of questions; change the text to your question")
    if fields != source.fields:
        additions["fields"] = fields
    return additions, reasons


def _list_files(source: DatasetSource) -> Iterator[File]:
    for path in source.all_files:
        yield File(path=path, size_bytes=None if is_hub(path) else find_size(path))


@dataclass
class _Rows:
    """The facts of a dataset's samples. ``counts`` has one dataset, and its ``unique`` is set after the last row."""

    most: int
    counts: Counts
    kinds: Counter[str] = field(default_factory=Counter)
    metadata: Counter[str] = field(default_factory=Counter)
    first_faults: dict[str, str] = field(default_factory=dict)
    shown: list[ShownRow] = field(default_factory=list)

    def read(self, source: DatasetSource) -> None:
        """Read all samples. Like planning, it raises ``ConfigError`` if all rows are faulty."""
        spec, digests = _make_spec(source), bytearray()
        try:
            for sample in show_progress(render_samples(read_dataset(source), spec), "reading rows"):
                digests += digest_twin_key(sample)
                self._add(sample, spec)
        finally:
            self.counts.unique[0] = count_unique(digests)
        self.counts.check_faults()

    def _add(self, sample: Sample, spec: RunSpec) -> None:
        self.counts.count_row(0, sample.fault)
        if sample.fault:
            self.first_faults.setdefault(sample.fault.code, sample.fault.message)
        else:
            self.kinds[sample.kind] += 1
        for name, value in sample.metadata.items():
            if name in self.metadata or len(self.metadata) < _MOST_COLUMNS:
                self.metadata[name] += value not in (None, "", [], {})
        if len(self.shown) < self.most:
            self.shown.append(_show(sample, spec))


def _show(sample: Sample, spec: RunSpec) -> ShownRow:
    roots = find_media_roots(get_settings(), spec.datasets)
    headers = (read_header(media, roots) for media in sample.media)
    return ShownRow(
        index=sample.index,
        kind=sample.kind,
        question=sample.question,
        options=sample.options,
        target=sample.target,
        media=tuple(header.model_copy(update={"place": mask_text(header.place)}) for header in headers),
        messages=() if sample.fault else render_messages(sample, spec.prompt).messages,
        fault=sample.fault,
    )


def _make_spec(source: DatasetSource) -> RunSpec:
    """Return a run of the dataset with the default prompt, which asks the turns one after the other if the source does."""
    model = ModelProfile(name="any", engine="echo")
    return RunSpec(
        model=model,
        datasets=(source,),
        generation=SamplingParams(),
        validation=Validation(),
        prompt=PromptSpec(multi_turn=MultiTurn.ASK) if source.asks_turns else PromptSpec(),
        shuffle=Shuffle(),
        chunks=Chunks(),
    )


def count_unique(digests: bytes | bytearray) -> int:
    """Return the number of different digests. ``digests`` contains digests of 16 bytes one after another."""
    halves = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    if not len(halves):
        return 0
    ordered = halves[np.lexsort(halves.T)]
    return 1 + int((ordered[1:] != ordered[:-1]).any(axis=1).sum())


def write_lines(source: DatasetSource) -> str:
    """Return the lines of a spec for a source, as YAML with absolute paths."""
    entry = {
        "path": list(source.files) or source.path,
        "name": source.name,
        **source.model_dump(include={"format", "fields", "question"}, exclude_defaults=True),
    }
    prompt = {"prompt": {"multi_turn": str(MultiTurn.ASK)}} if source.asks_turns else {}
    return yaml.safe_dump({"datasets": [entry], **prompt}, sort_keys=False, allow_unicode=True, width=1_000_000)
