"""The format ``captions``: one text file for each row, named after its image, such as ``shape.png.txt``.

Only ``ok`` samples get a file. The file contains only the text, in UTF-8.
"""

import os
from collections import Counter
from enum import StrEnum
from pathlib import Path

from common.errors import explain_unreadable
from common.storage.run_record import PlannedRun
from common.storage.store import Store
from producer.progress import show_progress
from producer.results.collect import collect_answers
from producer.results.export.choices import Naming, TextField
from producer.results.export.exported import Exported, LeftOut, leave_out
from producer.results.export.names import Namer, Repeats

ENDING = ".txt"


class Change(StrEnum):
    """The effect of writing a file."""

    WRITTEN = "written"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


def write_captions(run: PlannedRun, store: Store, folder: Path, field: TextField, naming: Naming) -> Exported:
    """Write a file for each row with an ``ok`` outcome and a name.

    Raises ``ConfigError`` before it writes any file if rows of two samples have the same name or if no row has a name. Also raises
    ``ConfigError`` if a file cannot be written.
    """
    namer = Namer(run.spec, naming)
    namer.check_names(run, store)
    changes, statuses = Counter[Change](), Counter[str]()
    left_out: list[LeftOut] = []
    repeats = Repeats()
    for row, outcome in show_progress(collect_answers(run, store), "exporting rows"):
        text: str | None = getattr(outcome, field) if outcome.status == "ok" else None
        statuses[outcome.status] += 1
        name = namer.name_row(row)
        if name is not None and repeats.contains(row, name):
            continue
        if name is not None and text is not None:
            changes[_write_file(folder / f"{name}{ENDING}", text)] += 1
        elif outcome.status != "ok":
            left_out.append(leave_out(row, outcome))
        else:
            left_out.append(leave_out(row, outcome, f"no {field}" if text is None else "no usable name: see --names"))
    planned = sum(counts.rows for counts in run.plan.datasets)
    return Exported(
        **{change.value: changes[change] for change in Change},
        statuses=dict(statuses),
        unlisted=planned - statuses.total(),
        left_out=tuple(left_out),
    )


def _write_file(path: Path, text: str) -> Change:
    """Write a text file atomically, unless it already has this content."""
    content = text.encode()
    try:
        found = _read_file(path)
        if found == content:
            return Change.UNCHANGED
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".export.{os.getpid()}")  # short, because the image's name may be as long as a name can be
        try:
            unfinished.write_bytes(content)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        message = f"{path} cannot be written ({reason}); check permissions and free space, or choose another folder with --out"
        raise explain_unreadable(error, message) from error
    return Change.WRITTEN if found is None else Change.REPLACED


def _read_file(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
