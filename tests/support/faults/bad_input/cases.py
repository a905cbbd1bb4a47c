"""What a case of bad input is.  The tables beside this file hold them; test and page are made from the same tables."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Write = Callable[[Path], None]


def write_nothing(folder: Path) -> None:
    """Write nothing more into the case's folder."""


@dataclass(frozen=True)
class RowCase:
    """Rows of a dataset file of their own, between good rows, in a folder of their own, run by a real fleet.

    ``outcome`` is ``ok`` or the error code of each of its samples.  ``message`` is the whole message, where ``…`` stands for
    anything and paths start at the case's folder; of an ``ok`` sample it says what is asked about.  ``seen`` is what the engine
    got to see of the images, see ``DescribingEngine``.  ``prepare`` writes what lies beside the dataset, ``change`` runs after
    planning.  ``samples`` and ``duplicates`` count the case's own rows; ``source`` has fields of the spec's dataset.
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
    def told(self) -> str:
        """Return what the page shows as the outcome."""
        return "`ok`" if self.outcome == "ok" else f"`failed`, `{self.outcome}`"


@dataclass(frozen=True)
class CommandCase:
    """A command that is given something wrong: its exit code, and the whole of what it says in ``message``.

    It runs in a folder with a good ``rows.jsonl`` and with ``spec`` as ``spec.yaml``, where ``prepare`` then writes what is wrong,
    and with ``environment`` besides the fleet's own; in the test's process unless it ``starts`` one of its own.
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
    def told(self) -> str:
        """Return what the page shows as the outcome."""
        return f"exit code {self.code}"


Case = RowCase | CommandCase


@dataclass(frozen=True)
class Topic:
    """A table of the page."""

    title: str
    cases: Sequence[Case]


def slugify(name: str) -> str:
    """Return a case's name as the name of a folder and of a dataset."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def matches_message(message: str, said: str) -> bool:
    """Return whether ``said`` is the expected message; ``…`` stands for anything."""
    return re.fullmatch(re.escape(message).replace("…", ".*"), said.strip(), re.DOTALL) is not None
