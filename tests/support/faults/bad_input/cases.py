"""The cases of bad input. The tables are in the modules of this package; the test and the page use the same tables."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Write = Callable[[Path], None]


def write_nothing(folder: Path) -> None:
    """Do not write additional files into the case's folder."""


@dataclass(frozen=True)
class RowCase:
    """Rows between good rows, in a separate dataset file and folder, run by a real fleet.

    ``outcome`` is ``ok`` or the error code of each sample. ``message`` is the complete message, where ``…`` stands for
    any text and paths start at the case's folder; for an ``ok`` sample it describes the treatment. ``seen`` is the engine's
    description of the images, see ``DescribingEngine``. ``prepare`` writes other files beside the dataset, ``change`` runs
    after planning. ``samples`` and ``duplicates`` count the case's own rows; ``source`` has fields of the spec's dataset.
    """

    name: str
    given: str
    outcome: str
    message: str
    content: bytes = b""
    file: str = "rows.jsonl"
    prepare: Write = write_nothing
    change: Write = write_nothing
    seen: str | None = None
    samples: int = 1
    duplicates: int = 0
    source: Mapping[str, object] = field(default_factory=dict)

    @property
    def outcome_text(self) -> str:
        """Return the outcome as the page shows it."""
        return "`ok`" if self.outcome == "ok" else f"`failed`, `{self.outcome}`"


@dataclass(frozen=True)
class CommandCase:
    """A command with wrong input: its exit code, and its complete output in ``message``.

    It runs in a folder with a good ``rows.jsonl``, with ``spec`` as ``spec.yaml``, and with the wrong files from ``prepare``. The
    environment is the fleet's and ``environment``. The command runs in the test's process unless it ``starts`` a new one.
    """

    name: str
    given: str
    message: str
    code: int = 2
    spec: str | bytes = "model: quick\ndatasets: [{path: rows.jsonl}]\n"
    prepare: Write = write_nothing
    arguments: Sequence[str] = ("enqueue", "spec.yaml", "--dry-run")
    environment: Mapping[str, str] = field(default_factory=dict)
    starts: bool = False

    @property
    def outcome_text(self) -> str:
        """Return the outcome as the page shows it."""
        return f"exit code {self.code}"


Case = RowCase | CommandCase


@dataclass(frozen=True)
class Topic:
    """One table of the page."""

    title: str
    cases: Sequence[Case]


def slugify(name: str) -> str:
    """Return a case's name in a form for folders and datasets."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def matches_message(message: str, output: str) -> bool:
    """Return whether ``output`` is the expected message; ``…`` stands for any text."""
    return re.fullmatch(re.escape(message).replace("…", ".*"), output.strip(), re.DOTALL) is not None
