"""Progress of a stream: a spinner on a terminal, otherwise a periodic line. The items of the stream do not change."""

import io
from collections.abc import Iterator
from functools import partial

import pytest
from rich.console import Console

from producer import progress
from producer.progress import show_progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the monotonic clock; return a list whose only element is the current time."""
    now = [0.0]
    monkeypatch.setattr("producer.progress.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Return the output of a terminal of 80 columns."""
    shown = io.StringIO()
    monkeypatch.setattr(progress, "Console", partial(Console, file=shown, force_terminal=True, width=80))
    return shown


@pytest.mark.parametrize("count", [0, 1, 255, 256, 1000])
def test_fast_stream_does_not_print_progress(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show_progress(iter(range(count)), "reading samples")) == list(range(count))
    assert capsys.readouterr() == ("", "")


def test_progress_line_is_printed_every_ten_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in show_progress(range(256 * 100), "reading samples"):
        clock[0] += 25 / (256 * 100)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["reading samples: 10,240 (1,024 rows/s)", "reading samples: 20,480 (1,024 rows/s)"]


def test_spinner_shows_count_and_is_cleared(clock: list[float], terminal: io.StringIO) -> None:
    for _ in show_progress(range(2000), "reading samples"):
        clock[0] += 0.01
    shown = terminal.getvalue()
    assert "reading samples: 1,792 (100 rows/s)" in shown
    assert shown.endswith("\x1b[1A\x1b[2K")  # the line is cleared


def test_stream_error_stops_spinner_and_propagates(terminal: io.StringIO) -> None:
    def break_off() -> Iterator[int]:
        yield 1
        raise ValueError("row 2")

    with pytest.raises(ValueError, match="row 2"):
        list(show_progress(break_off(), "reading samples"))
    assert "\x1b[?25h" in terminal.getvalue()  # the cursor is visible again


def test_closed_stream_stops_the_spinner(terminal: io.StringIO) -> None:
    stream = show_progress(range(10), "reading samples")
    assert next(stream) == 0
    stream.close()  # type: ignore[attr-defined]  # the iterator is a generator
    assert "\x1b[?25h" in terminal.getvalue()


def test_stream_is_read_lazily() -> None:
    source = iter(range(3))
    stream = show_progress(source, "reading samples")
    assert next(stream) == 0
    assert list(source) == [1, 2]
