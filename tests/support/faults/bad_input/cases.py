"""The cases of bad input.

The tables are in the other modules of this package. ``tests/faults/input/test_bad_input.py`` and ``docs/bad-input.md`` both use
them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Write = Callable[[Path], None]


def write_nothing(folder: Path) -> None:
    """Do not write additional files into the case's folder."""


@dataclass(frozen=True)
class RowCase:
    """Test rows with a good row before and after them.

    Each case has its own folder and dataset file, and a real fleet runs it.

    - ``outcome`` is ``ok`` or the error code of each sample.
    - ``message`` is the complete error message; ``…`` stands for any text, and paths are relative to the case's folder. If the
      outcome is ``ok``, ``message`` describes how the input was handled.
    - ``prepare`` writes other files beside the dataset; ``change`` modifies files after planning.
    - ``seen`` is the engine's description of the images, see ``DescribingEngine``.
    - ``samples`` and ``duplicates`` count the test rows, without the good rows.
    - ``source`` has further fields of the spec's dataset.
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
        """Return the outcome as ``docs/bad-input.md`` shows it."""
        return "`ok`" if self.outcome == "ok" else f"`failed`, `{self.outcome}`"


@dataclass(frozen=True)
class CommandCase:
    """A command with wrong input. ``code`` is its exit code, and ``message`` its complete output.

    The command runs in a folder with a good ``rows.jsonl``, with ``spec`` as ``spec.yaml``, and with the wrong files from
    ``prepare``. Its environment variables are those of the fleet, plus ``environment``. The command runs in the test's process,
    or in a new process if ``starts`` is true.
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
        """Return the outcome as ``docs/bad-input.md`` shows it."""
        return f"exit code {self.code}"


Case = RowCase | CommandCase


@dataclass(frozen=True)
class Topic:
    """One table of ``docs/bad-input.md``."""

    title: str
    cases: Sequence[Case]


def slugify(name: str) -> str:
    """Return a case's name in a form for folders and datasets."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def matches_message(message: str, output: str) -> bool:
    """Return whether ``output`` is the expected message; ``…`` stands for any text."""
    return re.fullmatch(re.escape(message).replace("…", ".*"), output.strip(), re.DOTALL) is not None
