"""End every command of the product many times under CPU load, and list each end that is not clean.

    python -m benchmarks.command_ends [--ends 500] [--jobs N] [--seed 1] [--commands status,start]

The benchmark starts a Redis, a local store and runs of an echo engine. It ends each command of ``commands.COMMANDS`` ``--ends``
times, with ``--jobs`` commands at the same time. The seed chooses how each command ends: without a signal, by SIGINT, or by
SIGTERM. The moment of a signal is uniform over the command's normal run time. The run time starts when the command handles
signals. Earlier signals, while the interpreter starts, would have their default effect, so the benchmark does not send any.

An end is odd in each of these cases:

- The exit code is not documented for this kind of end. Documented codes are 0, or 1 with samples that are not ok; after a signal
  130 or the normal code; 0 for a launcher that drains.
- A signal ended the process.
- The output contains a traceback or an abort message.
- The command does not end within 120 s.
- A process that the command started still runs.

The exit code of the benchmark is 1 if any end is odd.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from benchmarks.command_ends.commands import Command, choose_commands
from benchmarks.command_ends.ends import End, Progress, Way, draw_way, find_oddities
from benchmarks.command_ends.fleet import EndsFleet, open_fleet
from common.exit_codes import INTERRUPTED

_LINE_S = 5.0
_SHOWN = 3
_OUTPUT_LINES = 30


class Row:
    """The ends of one command: their number for each kind of end, and the descriptions of odd ends."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.ways: Counter[str] = Counter()
        self.odd: list[str] = []

    def add(self, end: End, number: int) -> None:
        way = end.sent.name if end.sent else "by itself"
        self.ways[way] += 1
        if found := find_oddities(self.command, end):
            output = "\n".join(f"    {line}" for line in end.output.splitlines()[-_OUTPUT_LINES:])
            self.odd.append(f"{self.command.line}: end {number}, {way}: {'; '.join(found)}\n{output}")

    def __str__(self) -> str:
        counts = (self.ways.total(), *(self.ways[way] for way in ("by itself", "SIGINT", "SIGTERM")), len(self.odd))
        return f"{self.command.line:<50}" + "".join(f"{count:>11,}" for count in counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ends", type=int, default=500, help="ends of each command")
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1), help="commands that run at the same time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", default="", help="end only commands that contain one of these texts, separated by commas")
    asked = parser.parse_args()
    try:
        commands = choose_commands(asked.commands.split(","))
    except ValueError as error:
        parser.error(f"--commands: {error}")
    # A shell starts background commands with SIGINT ignored. Child processes would inherit this setting.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="vlm-fleet-ends-") as folder, open_fleet(Path(folder)) as fleet:
            rows = end_commands(fleet, commands, asked)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    print_table(rows)
    sys.exit(any(row.odd for row in rows))


def end_commands(fleet: EndsFleet, commands: Sequence[Command], asked: argparse.Namespace) -> list[Row]:
    """End each command ``asked.ends`` times, and print the progress."""
    lives, rows = {}, [Row(command) for command in commands]
    for row in rows:  # the first end, without load, measures the run time and the cost
        end, lives[row.command.line] = fleet.end(row.command, Way(None, 1.0), 0, 0.0)
        row.add(end, 0)
        print(f"{row.command.line}: runs for {lives[row.command.line]:.2f} s", flush=True)
    progress, began_at, shown_at = Progress(dict(lives), asked.ends - 1), time.monotonic(), 0.0
    with ThreadPoolExecutor(asked.jobs) as pool:
        try:
            for row in rows:

                def end_one(number: int, command: Command = row.command) -> tuple[int, End]:
                    way = draw_way(asked.seed, command, number)
                    end, lived_s = fleet.end(command, way, number, lives[command.line])
                    if way.by is None:
                        lives[command.line] = lived_s
                    return number, end

                for done in as_completed([pool.submit(end_one, number) for number in range(1, asked.ends)]):
                    number, end = done.result()
                    row.add(end, number)
                    progress.done[row.command.line] += 1
                    if time.monotonic() - shown_at > _LINE_S:
                        shown_at = time.monotonic()
                        odd = sum(len(one.odd) for one in rows)
                        print(f"{progress.describe(shown_at - began_at)}, {odd} odd: {row.command.line}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return rows


def print_table(rows: Sequence[Row]) -> None:
    for row in rows:
        print(*row.odd[:_SHOWN], sep="\n", end="\n" if row.odd else "")
    print(f"{'command':<50}" + "".join(f"{name:>11}" for name in ("ends", "by itself", "SIGINT", "SIGTERM", "odd")))
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
