"""The measures of each part of the benchmark with their goals, and the measures that all parts share."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.crash_cost.fleet import Ended

POISON = "poison"


class Line(NamedTuple):
    """One measure of a part with its goal. ``is_met`` is ``None`` if the part was skipped; ``goal`` then states the reason."""

    part: str
    measure: str
    value: float
    goal: str
    is_met: bool | None


def at_most(part: str, measure: str, value: float, limit: float) -> Line:
    return Line(part, measure, value, f"<= {limit:.2f}", value <= limit)


def at_least(part: str, measure: str, value: float, limit: float) -> Line:
    return Line(part, measure, value, f">= {limit:.2f}", value >= limit)


def skip(part: str, measure: str, reason: str) -> Line:
    return Line(part, measure, 0.0, reason, None)


def check_outcomes(part: str, runs: Sequence[Ended], poisons: int) -> list[Line]:
    """Return the measures of the outcomes of all runs. Each run has ``poisons`` poison samples."""
    found = [sum(code == "engine_crashed" and row.startswith(POISON) for row, code in run.failed.items()) for run in runs]
    others = sum(run.statuses.total() - run.statuses["ok"] for run in runs) - sum(found)
    return [
        at_least(part, "poison samples identified in each run", min(found), poisons),
        at_most(part, "other samples that are not ok", others, 0),
        at_most(part, "samples lost or duplicated", sum(run.lost + run.duplicated for run in runs), 0),
    ]


def print_line(line: Line) -> None:
    if line.is_met is None:
        print(f"{line.part}  {line.measure:<55}  skipped: {line.goal}", flush=True)
        return
    result = "met" if line.is_met else "MISSED"
    print(f"{line.part}  {line.measure:<55} {line.value:>8.2f}  {line.goal:>10}  {result}", flush=True)
