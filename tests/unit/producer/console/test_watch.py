"""``producer watch`` prints progress until the run ends. The last line states how the run ended."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from producer.console.watch import describe_progress, format_duration, watch_run
from producer.runs.status import RunStatus
from tests.support.statuses import make_counts, make_status

RUNNING = make_status(make_counts(ok=20, in_flight=16), samples_per_s=12.4, eta_s=65)
DONE = make_status(make_counts(ok=95, invalid=2, failed=3), state="done")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let only ``sleep`` advance the clock; return a list whose only element is the current time."""
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("producer.console.watch.time.monotonic", lambda: now[0])
    monkeypatch.setattr("producer.console.watch.time.sleep", sleep)
    return now


def read_each(*statuses: RunStatus) -> Callable[[], RunStatus]:
    iterator = iter(statuses)
    return lambda: next(iterator)


def make_console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    shown = io.StringIO()
    return Console(file=shown, width=80, force_terminal=terminal, color_system=None), shown


def test_progress_line_is_printed_every_five_seconds(clock: list[float]) -> None:
    console, shown = make_console(terminal=False)
    assert watch_run(read_each(*[RUNNING] * 21, DONE), console) == DONE
    assert shown.getvalue().splitlines() == [
        *["tiny-1f0c92b4d7aa: 20/100 samples · 12 samples/s · 1 min 05 s left"] * 3,
        "tiny-1f0c92b4d7aa: 100/100 samples · done · 2 invalid · 3 failed",
    ]
    assert clock == [110.5]


@pytest.mark.parametrize("terminal", [True, False])
def test_finished_run_is_printed_once(clock: list[float], terminal: bool) -> None:
    console, shown = make_console(terminal=terminal)
    assert watch_run(read_each(DONE), console) == DONE
    assert shown.getvalue().count("100/100 samples · done · 2 invalid · 3 failed\n") == 1
    assert clock == [100.0]


@pytest.mark.parametrize("terminal", [True, False])
def test_pause_ends_watch_and_prints_the_reason(clock: list[float], terminal: bool) -> None:
    console, shown = make_console(terminal=terminal)
    paused = make_status(state="paused", reason="part [3] is damaged")
    assert watch_run(read_each(RUNNING, paused), console) == paused
    assert shown.getvalue().endswith("0/100 samples · paused (part [3] is damaged)\n")


def test_terminal_shows_large_run_in_80_columns(clock: list[float]) -> None:
    console, shown = make_console(terminal=True)
    large = make_counts(12_000_000, ok=9_000_000)
    slow = make_status(large, run_id="qwen2.5-vl-7b-instruct-1f0c92b4d7aa", samples_per_s=12345.6, eta_s=7800)
    watch_run(read_each(slow, slow, slow.model_copy(update={"state": "done"})), console)
    assert " 9,000,000/12,000,000 samples · 12,346 samples/s · 2 h 10 min left" in shown.getvalue()
    assert "━" in shown.getvalue()
    assert "\x1b[?25h" in shown.getvalue()  # the cursor is visible again


@pytest.mark.parametrize(
    ("fields", "pace"),
    [
        ({}, "waiting for a chunk to end"),
        ({"workers": ()}, "waiting for a worker"),
        ({"samples_per_s": 1234.5, "eta_s": 59.6}, "1,234 samples/s · 1 min 00 s left"),
        ({"samples_per_s": 0.26, "eta_s": 4.0}, "0.3 samples/s · 4 s left"),
        ({"state": "done", "samples_per_s": 5.0}, "done"),
        ({"state": "cancelled"}, "cancelled"),
    ],
)
def test_progress_shows_state_or_throughput(fields: dict[str, Any], pace: str) -> None:
    assert describe_progress(make_status(**fields)) == f"tiny-1f0c92b4d7aa: 0/100 samples · {pace}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((None, "?"), (0, "0 s"), (0.4, "0 s"), (59.4, "59 s")),
        *((59.5, "1 min 00 s"), (185, "3 min 05 s"), (3599.7, "1 h 00 min"), (7860, "2 h 11 min")),
    ],
)
def test_durations_have_at_most_two_units(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text
