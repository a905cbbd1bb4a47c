"""One end of a command: its way, chosen by a seed, and what is odd about it."""

import random
import signal
from typing import NamedTuple

from benchmarks.command_ends.commands import Command
from common.exit_codes import INTERRUPTED
from common.program.interrupts import INTERRUPT_MESSAGE

_FORBIDDEN = ("Traceback", "terminate called", "Exception ignored", "Fatal Python error")


class Way(NamedTuple):
    """How a command is ended: with ``by`` after the ``fraction`` of its life, or without a signal if ``by`` is ``None``."""

    by: signal.Signals | None
    fraction: float


class End(NamedTuple):
    """How a command ended.

    ``sent`` is the signal that reached it, or ``None`` if it ended before; ``was_ready`` states that it had printed
    ``Command.ready`` before the signal. ``code`` is ``None`` if it did not end within the deadline.  ``left`` names
    the processes that it started and that run after its end, by their command lines.
    """

    code: int | None
    output: str
    sent: signal.Signals | None = None
    was_ready: bool = False
    left: tuple[str, ...] = ()


def draw_way(seed: int, command: Command, number: int) -> Way:
    """Return the way of the ``number``-th end of a command: each kind with the same chance, at a uniform moment."""
    chance = random.Random(f"{seed} {command.line} {number}")
    return Way(chance.choice((None, signal.SIGINT, signal.SIGTERM)), chance.random())


def find_oddities(command: Command, end: End) -> list[str]:
    """Return what is odd about an end. It is empty for a clean end."""
    odd = [f"its output has {text!r}" for text in _FORBIDDEN if text in end.output]
    odd += [f"after its end runs {process}" for process in end.left]
    if end.code is None:
        return [*odd, "it did not end within the deadline"]
    codes = command.codes if end.sent is None or end.was_ready else command.codes_after_signal
    if end.code not in codes:
        odd.append(f"exit code {end.code}, expected {' or '.join(map(str, sorted(codes)))}")
    elif end.code == INTERRUPTED and INTERRUPT_MESSAGE not in end.output:
        odd.append("exit code 130 without the message")
    return odd


class Progress:
    """The rate of ends, and the time left. ``costs`` has the seconds that one end of each command takes, ``ends`` their number.

    Costs need only be right in proportion: the time left comes from the time that the ends so far have taken.
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
