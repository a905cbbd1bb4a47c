"""The findings of ``workers check``, one for each check, and the exit code of a list of findings."""

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
    """The result of one check.

    ``what`` names the check, ``found`` states the result, and ``advice`` states what to do if the level is not ``ok``.
    ``unreachable`` is true if a service does not answer. The problem may end without a change of settings.
    """

    what: str
    level: Level
    found: str
    advice: str = ""
    unreachable: bool = False

    def __post_init__(self) -> None:
        """Shorten and mask the texts, because they can quote file names and messages of services."""
        for name in ("found", "advice"):
            object.__setattr__(self, name, mask_text(getattr(self, name)))


def report_fault(what: str, error: FleetError) -> Finding:
    """Return an error as a problem without advice, because the message of a ``FleetError`` states what to do."""
    return Finding(what, "problem", str(error), unreachable=isinstance(error, TransientError))


def find_exit_code(findings: Iterable[Finding]) -> int:
    """Return 2 if the user must change something, 3 if the only problems are unreachable services, and 0 without problems."""
    problems = [finding for finding in findings if finding.level == "problem"]
    if any(not finding.unreachable for finding in problems):
        return USER_MUST_ACT
    return UNREACHABLE if problems else 0
