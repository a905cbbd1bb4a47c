"""Watch a run until it ends: show a progress bar with rate and time left on a terminal, otherwise plain lines."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from common.records import RunState
from producer.runs.status import RunStatus, SampleCounts

_POLL_S = 0.5
_LINE_S = 5.0


def watch_run(read: Callable[[], RunStatus], console: Console) -> RunStatus:
    """Show the status that ``read`` returns until the run has ended or is paused. Return the last status."""
    last = _watch_live(read, console) if console.is_terminal else _watch_lines(read, console)
    _print_progress(last, console)
    return last


def describe_progress(status: RunStatus) -> str:
    """Return one line: samples done and in total, rate, time left, and the counts of samples that are not ``ok``."""
    parts = [f"{status.run_id}: {_describe_done(status)}", _describe_rate(status)]
    troubles = (("invalid", status.samples.invalid), ("failed", status.samples.failed), ("run again", status.retrying))
    if quarantine := status.quarantine:
        parts.append(f"quarantine: {quarantine.cleared:,} of {quarantine.samples:,} samples cleared")
    return " · ".join(parts + [f"{count:,} {name}" for name, count in troubles if count])


def _count_done(samples: SampleCounts) -> int:
    return samples.ok + samples.invalid + samples.failed


def _describe_done(status: RunStatus) -> str:
    return f"{_count_done(status.samples):,}/{status.samples.unique:,} samples"


def _describe_rate(status: RunStatus) -> str:
    if status.state != RunState.RUNNING:
        return f"{status.state}{f' ({status.reason})' if status.reason else ''}"
    if not status.samples_per_s:
        return "waiting for a chunk to end" if status.workers else "waiting for a worker"
    return f"{format_rate(status.samples_per_s)} samples/s · {format_duration(status.eta_s)} left"


def format_rate(per_s: float) -> str:
    """Return a rate as ``1,234``, or ``2.5`` below 10."""
    return f"{per_s:,.{0 if per_s >= 10 else 1}f}"


def format_duration(seconds: float | None) -> str:
    """Return seconds as ``42 s``, ``3 min 05 s`` or ``2 h 10 min``; ``?`` when unknown."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _watch_lines(read: Callable[[], RunStatus], console: Console) -> RunStatus:
    shown_at = -_LINE_S
    while True:
        status = read()
        if status.state != RunState.RUNNING:
            return status
        if time.monotonic() - shown_at >= _LINE_S:
            _print_progress(status, console)
            shown_at = time.monotonic()
        time.sleep(_POLL_S)


def _watch_live(read: Callable[[], RunStatus], console: Console) -> RunStatus:
    columns = (BarColumn(bar_width=None), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, expand=True, transient=True) as progress:
        status = read()
        console.print(status.run_id, markup=False, highlight=False)
        shown = progress.add_task("", total=status.samples.unique)
        while status.state == RunState.RUNNING:
            line = f"{_describe_done(status)} · {_describe_rate(status)}"
            progress.update(shown, completed=_count_done(status.samples), description=line)
            time.sleep(_POLL_S)
            status = read()
    return status


def _print_progress(status: RunStatus, console: Console) -> None:
    console.print(describe_progress(status), markup=False, highlight=False, soft_wrap=True)
