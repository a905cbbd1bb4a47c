"""The notices of a survey, for the user: probable mistakes in a dataset, and facts that the user should check."""

from collections.abc import Iterator
from string import ascii_uppercase

import structlog

from common.records import Record
from producer.datasets.columns import suggest_field, write_mapping
from producer.datasets.media_files import FileProblem
from producer.datasets.survey.facts import Facts
from producer.datasets.survey.turns import TurnFacts

log = structlog.get_logger()

_REMEDIES = {
    FileProblem.ABSENT: (
        "relative paths start at media_root; if only the workers have the files, digest_media: never skips their digests"
    ),
    FileProblem.UNREADABLE: "expected a file that this user may read; check its permissions",
    FileProblem.OUTSIDE: "set the dataset's media_root, or start the workers with FLEET_MEDIA_ROOTS",
}


class Notice(Record):
    """A probable mistake in a dataset, or a fact that the user should check.

    - ``rows`` counts the affected rows, and ``hint`` describes how to correct the mistake or change the fact.
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


def find_notices(facts: Facts) -> Iterator[Notice]:
    """Yield the notices of a dataset."""
    name = facts.source.name
    for problem, (file, named) in facts.bad_files.items():
        event, rows, hint = "dataset.media_missing", facts.files.rows[problem], f"the file {problem}; {_REMEDIES[problem]}"
        yield Notice(event=event, dataset=name, column=named, rows=rows, path=file.path, hint=hint)
    for theirs, column in facts.columns.items():
        if ours := suggest_field(theirs, column, facts.used_fields):
            hint = f"use it with {write_mapping({ours: theirs})}, or leave it out with ignore: [{theirs}]"
            event = "dataset.column_unused"
            yield Notice(event=event, dataset=name, column=theirs, rows=column.rows, looks_like=ours, hint=hint)
    yield from _find_close_names(facts)
    letters = [letter for letter in ascii_uppercase if letter in facts.columns and facts.columns[letter].rows]
    if facts.used["options"] and letters[:2] == ["A", "B"]:
        rows, columns = facts.columns["A"].rows, ", ".join(letters)
        hint = f"another field gives the options, so the columns {columns} are not shown; leave them out with ignore: [{columns}]"
        yield Notice(event="dataset.column_unused", dataset=name, column="A", rows=rows, looks_like="options", hint=hint)
    for theirs, rows in facts.unclear_targets.items():
        hint = (
            "answers look like lists, such as [1, 2], but each counts as one text; for several accepted answers, write a "
            "list of quoted texts, such as ['1', '2']; otherwise, no change is necessary"
        )
        yield Notice(event="dataset.target_unclear", dataset=name, column=theirs, rows=rows, hint=hint)
    if facts.unmatched_markers:
        hint = "texts contain <image> or <video>, and the rows have no media; map the column of the media with fields"
        yield Notice(event="dataset.marker_without_media", dataset=name, rows=facts.unmatched_markers, hint=hint)


def _find_close_names(facts: Facts) -> Iterator[Notice]:
    """Yield a notice for each unused column whose name differs from a used one only in case or spaces."""
    used = {column: ours for ours, column in facts.mapped}
    for theirs, column in facts.columns.items():
        near = theirs.strip("\ufeff \t").casefold()
        if column.rows and near in used and theirs not in used:
            hint = f"column {near!r} is used, and its name differs only in case or spaces; leave it out with ignore: [{theirs}]"
            event, ours, name = "dataset.column_unused", used[near], facts.source.name
            yield Notice(event=event, dataset=name, column=theirs, rows=column.rows, looks_like=ours, hint=hint)


def describe_turns(dataset: str, turns: TurnFacts, *, asks_turns: bool) -> Iterator[Notice]:
    """Yield a notice that states how the rows with several turns of the user are sent, if a dataset has such rows."""
    if turns.several:
        hint = turns.explain(asks_turns=asks_turns)
        yield Notice(event="dataset.several_turns", dataset=dataset, rows=turns.several, hint=hint)


def log_notice(notice: Notice) -> None:
    """Log a notice, as a warning if it is a probable mistake."""
    name, rows, hint, column = notice.dataset, notice.rows, notice.hint, notice.column
    if notice.event == "dataset.media_missing":
        log.warning("dataset.media_missing", dataset=name, column=column, rows=rows, path=notice.path, hint=hint)
    elif notice.event == "dataset.target_unclear":
        log.warning("dataset.target_unclear", dataset=name, column=column, rows=rows, hint=hint)
    elif notice.event == "prompt.template_unused":
        log.warning("prompt.template_unused", dataset=name, rows=rows, hint=hint)
    elif notice.event == "dataset.several_turns":
        log.info("dataset.several_turns", dataset=name, rows=rows, hint=hint)
    elif notice.event == "dataset.marker_without_media":
        log.warning("dataset.marker_without_media", dataset=name, rows=rows, hint=hint)
    else:
        log.warning("dataset.column_unused", dataset=name, column=column, looks_like=notice.looks_like, rows=rows, hint=hint)
