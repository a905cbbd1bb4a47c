"""The result of an export. ``producer export --json`` prints it."""

from common.records import Outcome, Record
from common.redaction import mask_text
from producer.results.rows import PlannedRow

_MOST_SHOWN = 20


class LeftOut(Record):
    """A row without a file.

    ``reason`` is an error code, the violations of the last attempt, or the reason why an ``ok`` row has no file.
    """

    dataset: str
    index: str
    sample_id: str
    status: str
    reason: str | None = None


class Exported(Record):
    """The counts of an export, and the rows that have no file.

    - ``written`` counts new files, ``replaced`` files whose text has changed, and ``unchanged`` files that had the same text.
    - ``statuses`` counts rows by the status of their sample.
    - ``unlisted`` counts duplicate rows without a file, because plans of earlier versions count duplicates but do not list them.
    - ``left_out`` lists the rows without a file.
    """

    written: int = 0
    replaced: int = 0
    unchanged: int = 0
    statuses: dict[str, int]
    unlisted: int = 0
    left_out: tuple[LeftOut, ...] = ()

    @property
    def is_complete(self) -> bool:
        return not self.left_out and not self.unlisted


def leave_out(row: PlannedRow, outcome: Outcome, reason: str | None = None) -> LeftOut:
    """Return the record of a row without a file. Without ``reason``, the outcome gives the reason."""
    violations = outcome.attempts[-1].violations if outcome.attempts else ()
    return LeftOut(
        dataset=row.sample.dataset,
        index=row.index,
        sample_id=row.sample.sample_id,
        status=outcome.status,
        reason=reason or outcome.error_code or ", ".join(violations) or None,
    )


def describe_export(exported: Exported, folder: str) -> str:
    """Return the lines that a terminal shows: the counts, and the first rows without a file."""
    counts = f"{exported.written:,} written, {exported.replaced:,} replaced, {exported.unchanged:,} unchanged"
    lines = [f"{folder}: {counts}, {len(exported.left_out):,} left out"]
    lines += [
        f"  left out: {row.dataset} {row.index}: {row.status}" + (f" ({row.reason})" if row.reason else "")
        for row in exported.left_out[:_MOST_SHOWN]
    ]
    if more := len(exported.left_out) - _MOST_SHOWN:
        lines += [f"  and {more:,} more; --json lists all of them"] if more > 0 else []
    if exported.unlisted:
        lines.append(f"  {exported.unlisted:,} duplicate rows have no file: the plan of this run does not list them")
    return "\n".join(map(mask_text, lines))
