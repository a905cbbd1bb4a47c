"""Watch a run until it ends: a progress bar with rate and time left on a terminal, plain lines off one."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from producer.status import RunStatus

_POLL_S = 0.5
_LINE_S = 5.0


def watch_run(read: Callable[[], RunStatus], console: Console) -> RunStatus:
    """Show what ``read`` returns until the run has ended or is paused; return the last status."""
    return _watch_live(read, console) if console.is_terminal else _watch_lines(read, console)


def describe_progress(status: RunStatus) -> str:
    """Return one line: done of all, rate, time left, and what is not ``ok``."""
    samples = status.samples
    done = samples.ok + samples.invalid + samples.failed
    parts = [f"{status.run_id}: {done:,}/{samples.unique:,} samples", _describe_pace(status)]
    parts += [f"{count:,} {name}" for name, count in (("invalid", samples.invalid), ("failed", samples.failed)) if count]
    return " · ".join(parts)


def _describe_pace(status: RunStatus) -> str:
    if status.state != "running":
        return f"{status.state}{f' ({status.reason})' if status.reason else ''}"
    if not status.samples_per_s:
        return "workers are loading" if not status.workers else "starting"
    return f"{status.samples_per_s:,.0f} samples/s · {format_duration(status.eta_s)} left"


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
        ended = status.state != "running"
        if ended or time.monotonic() - shown_at >= _LINE_S:
            console.print(describe_progress(status), highlight=False, soft_wrap=True)
            shown_at = time.monotonic()
        if ended:
            return status
        time.sleep(_POLL_S)


def _watch_live(read: Callable[[], RunStatus], console: Console) -> RunStatus:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=console) as progress:
        status = read()
        shown = progress.add_task(status.run_id, total=status.samples.unique, pace="")
        while True:
            samples = status.samples
            progress.update(shown, completed=samples.ok + samples.invalid + samples.failed, pace=_describe_pace(status))
            if status.state != "running":
                return status
            time.sleep(_POLL_S)
            status = read()
