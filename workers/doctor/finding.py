"""What ``workers check`` has to say: one finding a thing it looked at, and the exit code of all of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from common.errors import FleetError, TransientError
from common.exit_codes import UNREACHABLE, USER_MUST_ACT
from common.redaction import mask_text
from common.storage.store import StoreFull

Level = Literal["ok", "warning", "problem"]

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, and what to do about it where something is to be done.

    ``unreachable`` is a problem of a service that does not answer: waiting may help, changing settings need not.
    """

    what: str
    level: Level
    found: str
    advice: str = ""
    unreachable: bool = False


def report_fault(what: str, error: FleetError) -> Finding:
    """Return an error as a problem; our errors say themselves what to do."""
    is_away = isinstance(error, TransientError) and not isinstance(error, StoreFull)
    return Finding(what, "problem", mask_text(str(error)), unreachable=is_away)


def find_exit_code(findings: Iterable[Finding]) -> int:
    """Return 0, 2 when the user must change something, or 3 when only a service that is away stands in the way."""
    problems = [finding for finding in findings if finding.level == "problem"]
    if any(not finding.unreachable for finding in problems):
        return USER_MUST_ACT
    return UNREACHABLE if problems else 0
