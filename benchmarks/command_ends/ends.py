"""The seeded choice of how a command ends, and the check of its end."""

import random
import signal
from typing import NamedTuple

from benchmarks.command_ends.commands import Command
from common.exit_codes import INTERRUPTED
from common.program.interrupts import INTERRUPT_MESSAGE

_FORBIDDEN = ("Traceback", "terminate called", "Exception ignored", "Fatal Python error")


class Way(NamedTuple):
    """How a command is ended.

    The command gets the signal ``by`` after this ``fraction`` of its normal run time. If ``by`` is ``None``, the command does
    not get a signal, except that a command that runs until a signal gets SIGTERM once it is ready.
    """

    by: signal.Signals | None
    fraction: float


class End(NamedTuple):
    """How a command ended.

    - ``code`` is the exit code, or ``None`` if the command did not end within the deadline.
    - ``sent`` is the signal that the command got, or ``None`` if the command ended without a signal.
    - ``was_ready`` is true if the command had printed ``Command.ready`` before the signal.
    - ``left`` lists the command lines of processes that the command started and that still run after its end.
    """

    code: int | None
    output: str
    sent: signal.Signals | None = None
    was_ready: bool = False
    left: tuple[str, ...] = ()


def draw_way(seed: int, command: Command, number: int) -> Way:
    """Draw the kind and the moment of a command's ``number``-th end. All kinds are equally likely. The moment is uniform."""
    chance = random.Random(f"{seed} {command.line} {number}")
    return Way(chance.choice((None, signal.SIGINT, signal.SIGTERM)), chance.random())


def find_oddities(command: Command, end: End) -> list[str]:
    """Return descriptions of everything unexpected about an end. The list is empty for a clean end."""
    odd = [f"its output has {text!r}" for text in _FORBIDDEN if text in end.output]
    odd += [f"still runs after its end: {process}" for process in end.left]
    if end.code is None:
        return [*odd, "it did not end within the deadline"]
    codes = command.codes if end.sent is None or end.was_ready else command.codes_after_signal
    if end.code not in codes:
        odd.append(f"exit code {end.code}, expected {' or '.join(map(str, sorted(codes)))}")
    elif end.code == INTERRUPTED and INTERRUPT_MESSAGE not in end.output:
        odd.append("exit code 130 without the message of an interrupt")
    return odd


class Progress:
    """The rate of ends, and the remaining time. Each command is ended ``ends`` times.

    ``costs`` maps each command to the seconds that one of its ends takes. Only the proportions of the costs matter, because the
    remaining time is scaled by the time that the previous ends took.
    """

    def __init__(self, costs: dict[str, float], ends: int) -> None:
        self._costs = costs
        self._ends = ends
        self.done = dict.fromkeys(costs, 0)

    def describe(self, elapsed_s: float) -> str:
        """Return ``120 of 500 ends, 3.4/s, 112 s left``."""
        total, paid = sum(self._costs.values()) * self._ends, sum(self._costs[line] * count for line, count in self.done.items())
        left = f"{elapsed_s * (total - paid) / paid:.0f} s left" if paid else "? s left"
        done = sum(self.done.values())
        return f"{done:,} of {len(self._costs) * self._ends:,} ends, {done / elapsed_s if elapsed_s else 0:.1f}/s, {left}"
