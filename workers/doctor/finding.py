"""The findings of ``workers check``: one for each check, and the exit code that follows from all of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from common.errors import FleetError, TransientError
from common.exit_codes import UNREACHABLE, USER_MUST_ACT
from common.redaction import mask_text

Level = Literal["ok", "warning", "problem"]

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: what was checked, what was found, and ``advice`` on what to do if the level is not ``ok``.

    ``unreachable`` marks the problem of a service that does not answer. Waiting may solve it without a change of settings.
    """

    what: str
    level: Level
    found: str
    advice: str = ""
    unreachable: bool = False

    def __post_init__(self) -> None:
        """Bound and mask the texts: they can quote the name of a file or the message of a service."""
        for name in ("found", "advice"):
            object.__setattr__(self, name, mask_text(getattr(self, name)))


def report_fault(what: str, error: FleetError) -> Finding:
    """Return an error as a problem without advice: the message of a ``FleetError`` says what to do."""
    return Finding(what, "problem", str(error), unreachable=isinstance(error, TransientError))


def find_exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 without a problem, 2 if the user must change something, or 3 if the only problems are unreachable services."""
    problems = [finding for finding in findings if finding.level == "problem"]
    if any(not finding.unreachable for finding in problems):
        return USER_MUST_ACT
    return UNREACHABLE if problems else 0
