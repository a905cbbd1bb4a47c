"""Output of ``status`` and ``enqueue``: full numbers, advice on missing workers, at most 80 columns."""

import io

import pytest
from rich.console import Console

from common.ledger.worker_registry import WorkerRecord
from common.records import DatasetCounts, Plan
from producer.console.status import print_enqueued, print_status
from producer.runs.enqueue import Enqueued
from producer.runs.status import RunStatus
from tests.support.statuses import make_counts, make_status

SMALL = make_counts(1000, duplicates=5, ok=900, invalid=12, failed=3, in_flight=64)
LARGE = make_counts(12_000_000, duplicates=345_678, ok=9_000_000, invalid=12_000, failed=3_000, in_flight=2_048)


def show(status: RunStatus, *, terminal: bool = False) -> list[str]:
    shown = io.StringIO()
    print_status(status, Console(file=shown, width=80, force_terminal=terminal, color_system=None))
    return [line.strip() for line in shown.getvalue().splitlines()]


def show_enqueued(*, planned: bool = True, workers: int = 0, rung: int = 25, state: str = "running", not_ok: int = 0) -> str:
    counts = (DatasetCounts(name="rows", rows=1400, unique=1390, duplicates=10),)
    plan = Plan(run_id="tiny-1", samples=1390, chunks=25, datasets=counts, faults={"bad_media": 1200, "bad_row": 3})
    shown = io.StringIO()
    enqueued = Enqueued(
        run_id="tiny-1",
        model="tiny",
        plan=plan,
        planned=planned,
        opened=planned,
        state=state,
        not_ok=not_ok,
        rung=rung,
        workers=workers,
    )
    print_enqueued(enqueued, Console(file=shown, width=80))
    return shown.getvalue()


def test_status_prints_one_table_row_per_dataset() -> None:
    lines = show(make_status(SMALL))
    assert lines[0] == "tiny-1f0c92b4d7aa: 915/1,000 samples · waiting for a chunk to end · 12 invalid · 3 failed"
    assert lines[2].split() == ["dataset", "rows", "unique", "duplicates", "ok", "invalid", "failed", "in", "flight", "unprocessed"]
    assert lines[4].split() == ["rows", "1,005", "1,000", "5", "900", "12", "3", "64", "21"]
    assert not any(line.startswith("all") for line in lines)


def test_several_datasets_end_with_overall_row() -> None:
    lines = show(make_status(SMALL, datasets={"one": SMALL, "two": SMALL}))
    assert [line.split()[0] for line in lines[4:7]] == ["one", "two", "all"]


@pytest.mark.parametrize("name", ["rows", "pathvqa-train-with-a-long-name"])
def test_wide_table_becomes_lines_without_truncation(name: str) -> None:
    lines = show(make_status(LARGE, datasets={name: LARGE, "two": LARGE}))
    assert lines[1:4] == [
        name,
        "rows 12,345,678, unique 12,000,000, duplicates 345,678",
        "ok 9,000,000, invalid 12,000, failed 3,000, in flight 2,048, unprocessed 2,982,952",
    ]
    assert [lines[place] for place in (4, 7)] == ["two", "all"]
    assert "…" not in "".join(lines)


def make_workers(host: str = "node7", *, gpu: str = "NVIDIA H200", trouble: str | None = None) -> list[WorkerRecord]:
    """Return three workers: a busy worker, a worker without finished samples, and a worker with chunks of other runs."""
    run_id, fields = make_status().run_id, {"model": "tiny", "pid": 41, "gpu": gpu}
    busy = WorkerRecord(
        worker=f"gpu0@{host}", device="gpu0", state="ready", samples_per_s=1234.4, tokens_per_s=9.96,
        holds=((run_id, 140_123), ("other", 4), (run_id, 97)), trouble=trouble, **fields,
    )  # fmt: skip
    fresh = WorkerRecord(worker=f"gpu1@{host}", device="gpu1", state="draining", **fields)
    elsewhere = WorkerRecord(worker=f"cpu7@{host}", model="tiny", pid=9, device="cpu7", state="ready", holds=(("a", 1), ("b", 1)))
    return [busy, fresh, elsewhere.model_copy(update={"samples_per_s": 0.0, "tokens_per_s": 0.0})]


def test_without_terminal_each_worker_is_one_line() -> None:
    """Each line shows the chunks, the device and the throughput."""
    assert show(make_status(SMALL, workers=make_workers()))[-3:] == [
        "gpu0@node7 (ready) on gpu0 NVIDIA H200: holds chunk 97, 140123, 1 chunk of other runs · 1,234 samples/s · 10.0 tokens/s",
        "gpu1@node7 (draining) on gpu1 NVIDIA H200: holds nothing",
        "cpu7@node7 (ready) on cpu7: holds 2 chunks of other runs · 0.0 samples/s · 0.0 tokens/s",
    ]


def test_terminal_shows_workers_as_table() -> None:
    lines = show(make_status(SMALL, workers=make_workers()), terminal=True)
    begin = next(number for number, line in enumerate(lines) if line.startswith("worker"))
    table = [line.split() for line in lines[begin:] if line]
    assert table[0] == ["worker", "device", "state", "holds", "samples/s", "tokens/s"]
    assert table[2] == ["gpu0@node7", "gpu0", "NVIDIA", "H200", "ready", "chunk", "97,", "140123,", "1", "1,234", "10.0"]
    assert table[3] == ["chunk", "of", "other", "runs"]
    assert table[4] == ["gpu1@node7", "gpu1", "NVIDIA", "H200", "draining", "nothing", "–", "–"]
    assert "…" not in "".join(lines)


def test_worker_trouble_is_shown_in_full() -> None:
    trouble = "the store [unreachable] " * 8
    for terminal in (True, False):
        shown = io.StringIO()
        status = make_status(SMALL, workers=make_workers(trouble=trouble))
        print_status(status, Console(file=shown, width=80, force_terminal=terminal, color_system=None))
        assert shown.getvalue().splitlines()[-1] == f"gpu0@node7: {trouble}"


def test_long_worker_names_are_printed_as_lines() -> None:
    lines = show(make_status(SMALL, workers=make_workers("node7.of.a.cluster.with-a-long.name.example.org")), terminal=True)
    assert lines[-2] == "gpu1@node7.of.a.cluster.with-a-long.name.example.org (draining) on gpu1 NVIDIA H200: holds nothing"


def test_unfinished_run_without_workers_suggests_start() -> None:
    advice = "no worker serves tiny now; start one: workers start --model tiny (without a GPU: --gpus none)"
    assert show(make_status(SMALL, workers=()))[-1] == advice
    assert advice not in show(make_status(SMALL, workers=(), state="done"))


def test_enqueue_prints_counts_and_next_command() -> None:
    assert show_enqueued().splitlines() == [
        "tiny-1: 1,400 rows, 1,390 samples in 25 chunks (planned)",
        "  rows 1,400, unique 1,390, duplicates 10, faulty rows: 1,200 bad_media, 3 bad_row",
        "  enqueued 25 chunks; follow with: producer watch tiny-1",
        "  no worker serves tiny now; start one: workers start --model tiny (without a GPU: --gpus none)",
    ]
    assert show_enqueued(planned=False, workers=2, rung=0).splitlines() == [
        "tiny-1: 1,400 rows, 1,390 samples in 25 chunks (planned before)",
        "  rows 1,400, unique 1,390, duplicates 10, faulty rows: 1,200 bad_media, 3 bad_row",
        "  enqueued 0 chunks; follow with: producer watch tiny-1",
    ]


def test_enqueue_prints_paused_or_done_state() -> None:
    assert show_enqueued(state="done", rung=0).splitlines()[2:] == ["  the run is done"]
    assert show_enqueued(state="paused", rung=0).splitlines()[2:] == [
        "  the run is paused; continue it with: producer resume tiny-1"
    ]
