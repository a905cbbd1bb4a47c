"""Contents of dataset files and of the files beside them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.faults.bad_input.cases import Write

# Good rows around the rows of a case. They must always end ``ok``.
_BEFORE, _AFTER = ({"question": f"the row {place}?", "neighbour": "yes"} for place in ("before", "after"))
TSV_HEADER = b"index\tquestion\tanswer\timage\tneighbour\n"
_TSV_BEFORE, _TSV_AFTER = b"8001\tthe row before?\tok\t\tyes\n", b"8002\tthe row after?\tok\t\tyes\n"


def make_lines(*rows: Mapping[str, Any] | bytes) -> bytes:
    """Return JSON lines of good rows around ``rows``, which are mappings or complete lines without line endings."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in (_BEFORE, *rows, _AFTER)]
    return b"".join(line + b"\n" for line in lines)


def make_asking(image: object, question: str = "What is it?") -> bytes:
    """Return JSON lines with one row whose ``image`` field is ``image``."""
    return make_lines({"question": question, "image": image})


def make_table(*lines: bytes, header: bytes = TSV_HEADER) -> bytes:
    """Return a TSV of good rows around ``lines``, which do not have line endings."""
    return header + _TSV_BEFORE + b"".join(line + b"\n" for line in lines) + _TSV_AFTER


def file(name: str, make: Callable[[], bytes]) -> Write:
    """Return a function that writes a file beside the dataset."""

    def write(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make())

    return write


def link(name: str, target: str) -> Write:
    """Return a function that writes a symbolic link beside the dataset."""
    return lambda folder: (folder / name).symlink_to(target)
