"""The benchmark of command ends: it covers every subcommand, chooses ways by seed, and recognizes odd ends."""

import signal
from collections import Counter

import click
import pytest

from benchmarks.command_ends.commands import COMMANDS, Command, choose_commands
from benchmarks.command_ends.ends import End, Progress, draw_way, find_oddities
from common.program.interrupts import INTERRUPT_MESSAGE
from producer.cli import cli as producer
from workers.cli import cli as workers

STATUS = Command("producer status DONE")
WATCH = Command("producer watch OPEN", code=130, ready="waiting")
START = Command("workers start --model slow", ready="worker.ready")
BROKEN = Command("workers start --model broken", code=2)
BY_INT, BY_TERM = signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize(("program", "group"), [("producer", producer), ("workers", workers)])
def test_every_subcommand_is_ended(program: str, group: click.Group) -> None:
    words = [command.line.split() for command in COMMANDS]
    assert {subcommand for one, subcommand, *_ in words if one == program} == {*group.commands, "--help"}


def test_commands_are_chosen_by_a_part() -> None:
    assert {command.line.split()[1] for command in choose_commands(["status", "cancel"])} == {"status", "cancel"}
    assert choose_commands([""]) == list(COMMANDS)
    with pytest.raises(ValueError, match="no command contains 'pause'"):
        choose_commands(["status", "pause"])


def test_same_seed_draws_same_ways() -> None:
    drawn = [draw_way(1, STATUS, number) for number in range(300)]
    assert drawn == [draw_way(1, STATUS, number) for number in range(300)]
    assert drawn != [draw_way(2, STATUS, number) for number in range(300)]
    assert drawn != [draw_way(1, WATCH, number) for number in range(300)]


def test_ways_and_moments_are_drawn_uniformly() -> None:
    drawn = [draw_way(1, STATUS, number) for number in range(3000)]
    assert all(800 < count < 1200 for count in Counter(way.by for way in drawn).values())
    assert all(200 < count < 400 for count in Counter(int(way.fraction * 10) for way in drawn).values())


@pytest.mark.parametrize(
    ("command", "end"),
    [
        (STATUS, End(0, "done")),
        (STATUS, End(0, "done", BY_INT)),  # it ended before the signal took effect
        (STATUS, End(130, INTERRUPT_MESSAGE, BY_INT)),
        (STATUS._replace(code=1), End(1, "")),
        (STATUS._replace(conflict=1), End(1, "")),
        (WATCH, End(130, INTERRUPT_MESSAGE, BY_TERM, was_ready=True)),
        (START, End(0, "worker.ready", BY_TERM, was_ready=True)),
        (START, End(0, "launcher.draining", BY_INT)),
        (START, End(130, INTERRUPT_MESSAGE, BY_TERM)),
        (BROKEN, End(2, "worker.gave_up")),
        (BROKEN, End(0, "launcher.draining", BY_INT)),
    ],
)
def test_clean_end_has_no_oddity(command: Command, end: End) -> None:
    assert find_oddities(command, end) == []


@pytest.mark.parametrize(
    ("command", "end", "oddity"),
    [
        (STATUS, End(1, ""), "exit code 1, expected 0"),
        (STATUS, End(130, INTERRUPT_MESSAGE), "exit code 130, expected 0"),
        (STATUS, End(-2, "", BY_INT), "exit code -2, expected 0 or 130"),
        (STATUS, End(130, "", BY_INT), "exit code 130 without the message of an interrupt"),
        (STATUS, End(None, "", BY_TERM), "it did not end within the deadline"),
        (STATUS._replace(code=1), End(0, ""), "exit code 0, expected 1"),
        (WATCH, End(0, ""), "exit code 0, expected 130"),
        (START, End(130, INTERRUPT_MESSAGE, BY_TERM, was_ready=True), "exit code 130, expected 0"),
        (START, End(0, "", BY_INT, left=("redis",)), "still runs after its end: redis"),
        (BROKEN, End(1, "", BY_INT), "exit code 1, expected 0 or 2 or 130"),
        (STATUS, End(0, "Traceback (most recent call last):"), "its output has 'Traceback'"),
        (STATUS, End(0, "terminate called without an active exception"), "its output has 'terminate called'"),
        (STATUS, End(0, "Exception ignored in: <function>"), "its output has 'Exception ignored'"),
        (STATUS, End(0, "Fatal Python error: Aborted"), "its output has 'Fatal Python error'"),
    ],
)
def test_unclean_end_is_odd(command: Command, end: End, oddity: str) -> None:
    assert find_oddities(command, end) == [oddity]


def test_time_left_weighs_ends_by_cost() -> None:
    progress = Progress({"short": 1.0, "long": 4.0}, ends=10)
    assert progress.describe(0.0) == "0 of 20 ends, 0.0/s, ? s left"
    progress.done["short"] = 10
    assert progress.describe(20.0) == "10 of 20 ends, 0.5/s, 80 s left"
