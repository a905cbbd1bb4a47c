"""Print a run's status, and the result of enqueueing and resuming, to a terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from common.ledger.worker_registry import WorkerRecord
from common.records import RunState
from producer.console.scores import ABSENT
from producer.console.watch import describe_progress, format_rate
from producer.runs.control import Resumed
from producer.runs.enqueue import Enqueued
from producer.runs.status import RunStatus, SampleCounts

_COLUMNS = ("rows", "unique", "duplicates", "ok", "invalid", "failed", "in_flight", "unprocessed")
_UNBOUNDED = 1000  # columns; wider than any table, so that a table is measured at its natural width


def print_status(status: RunStatus, console: Console) -> None:
    """Print a run's states by dataset, its throughput, and each worker's GPU, chunks and throughput."""
    _print(console, describe_progress(status))
    rows = [*status.datasets.items(), *([("all", status.samples)] if len(status.datasets) > 1 else [])]
    table = _make_table(rows)
    if _measure(table, console).maximum <= console.width:
        console.print(table)
    else:
        for name, counts in rows:
            labelled = [f"{column.replace('_', ' ')} {cell}" for column, cell in zip(_COLUMNS, _cells(counts), strict=True)]
            _print(console, f"{name}\n  {', '.join(labelled[:3])}\n  {', '.join(labelled[3:])}")
    _print_workers(status, console)
    if status.state == RunState.RUNNING and not any(worker.state != "stopped" for worker in status.workers):
        _print(console, _advise_workers(status.model))


def _make_table(rows: list[tuple[str, SampleCounts]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("dataset", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column.replace("_", " "), justify="right", no_wrap=True)
    for name, counts in rows:
        table.add_row(name, *_cells(counts), style="bold" if name == "all" else None)
    return table


def _measure(table: Table, console: Console) -> Measurement:
    """Return the widths that a table needs, independent of the console's width."""
    return console.measure(table, options=console.options.update(max_width=_UNBOUNDED))


def _print_workers(status: RunStatus, console: Console) -> None:
    """Print the workers as a table, or one line per worker if the table does not fit. Then print each worker's ``trouble``."""
    if not status.workers:
        return
    table = _make_worker_table(status)
    if console.is_terminal and _measure(table, console).minimum <= console.width:
        console.print(table)
    else:
        for worker in status.workers:
            _print(console, _describe_worker(worker, status.run_id))
    for worker in status.workers:
        if worker.trouble:
            _print(console, f"{worker.worker}: {worker.trouble}")


def _make_worker_table(status: RunStatus) -> Table:
    """Return a table with one row per worker. In a narrow terminal the device and the chunks wrap."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    for column in ("worker", "device", "state", "holds"):
        table.add_column(column, no_wrap=column in ("worker", "state"))
    for column in ("samples/s", "tokens/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for worker in status.workers:
        rates = (ABSENT if per_s is None else format_rate(per_s) for per_s in (worker.samples_per_s, worker.tokens_per_s))
        cells = (worker.worker, _describe_device(worker), worker.state, _describe_holds(worker, status.run_id), *rates)
        table.add_row(*map(escape, cells))
    return table


def _describe_worker(worker: WorkerRecord, run_id: str) -> str:
    parts = [f"{worker.worker} ({worker.state}) on {_describe_device(worker)}: holds {_describe_holds(worker, run_id)}"]
    rates = ((worker.samples_per_s, "samples/s"), (worker.tokens_per_s, "tokens/s"))
    return " · ".join(parts + [f"{format_rate(per_s)} {unit}" for per_s, unit in rates if per_s is not None])


def _describe_device(worker: WorkerRecord) -> str:
    return f"{worker.device} {worker.gpu}" if worker.gpu else worker.device


def _describe_holds(worker: WorkerRecord, run_id: str) -> str:
    """Return the worker's chunks of this run, as ``chunk 12, 14``, and the number of its chunks of other runs."""
    ours = [str(chunk) for run, chunk in sorted(worker.holds) if run == run_id]
    others = len(worker.holds) - len(ours)
    held = [f"chunk {', '.join(ours)}"] if ours else []
    if others:
        held.append(f"{others} {'chunk' if others == 1 else 'chunks'} of other runs")
    return ", ".join(held) or "nothing"


def print_enqueued(enqueued: Enqueued, console: Console) -> None:
    """Print the result of enqueueing and the next command for the user."""
    plan = enqueued.plan
    rows = sum(dataset.rows for dataset in plan.datasets)
    how = "planned" if enqueued.planned else "planned before"
    _print(console, f"{enqueued.run_id}: {rows:,} rows, {plan.samples:,} samples in {plan.chunks:,} chunks ({how})")
    duplicates = sum(dataset.duplicates for dataset in plan.datasets)
    faulty = ", ".join(f"{count:,} {code}" for code, count in (plan.faults or {}).items()) or "none"
    shown = "not counted" if plan.faults is None else faulty
    _print(console, f"  rows {rows:,}, unique {plan.samples:,}, duplicates {duplicates:,}, faulty rows: {shown}")
    if enqueued.earlier_run:
        _print(
            console,
            "  this is a new run: its id now includes engine options and the content of media files. An earlier version planned "
            f"the spec as {enqueued.earlier_run}. Continue that run with: producer resume {enqueued.earlier_run}",
        )
    if enqueued.state != RunState.RUNNING:
        _print(console, f"  the run is {enqueued.state}{_advise_resuming(enqueued)}")
        return
    _print(console, f"  enqueued {enqueued.rung:,} chunks; follow with: producer watch {enqueued.run_id}")
    if not enqueued.workers:
        _print(console, f"  {_advise_workers(enqueued.model)}")


def print_resumed(resumed: Resumed, retry: Sequence[str], console: Console) -> None:
    """Print the result of resuming. ``retry`` lists the statuses to run again."""
    if retry and not resumed.retried:
        wanted = " or ".join(retry)
        _print(console, f"{resumed.run_id}: no {wanted} samples to run again, except samples that are already being run again")
    elif retry:
        _print(console, f"{resumed.run_id}: samples to be run again: {resumed.retried:,}")
    if resumed.state == RunState.DONE:
        _print(console, f"{resumed.run_id}: the run is done; there is nothing to enqueue")
    else:
        _print(console, f"{resumed.run_id}: enqueued {resumed.rung:,} chunks; follow with: producer watch {resumed.run_id}")


def _advise_resuming(enqueued: Enqueued) -> str:
    if enqueued.state != RunState.DONE:
        return f"; continue it with: producer resume {enqueued.run_id}"
    if not enqueued.not_ok:
        return ""
    command = f"producer resume {enqueued.run_id} --retry failed,invalid"
    return f", {enqueued.not_ok:,} samples are not ok; run these again with: {command}"


def _advise_workers(model: str) -> str:
    return f"no worker serves {model} now; start one: workers start --model {model} (without a GPU: --gpus none)"


def _cells(counts: SampleCounts) -> list[str]:
    return [f"{getattr(counts, column):,}" for column in _COLUMNS]


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
