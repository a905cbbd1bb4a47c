"""Example run statuses, for tests of their display."""

from typing import Any

from common.ledger.worker_registry import WorkerRecord
from producer.runs.status import RunStatus, SampleCounts

WORKER = WorkerRecord(worker="gpu0@node7:41", model="tiny", device="0", pid=41, state="ready")


def make_counts(unique: int = 100, *, duplicates: int = 0, **states: int) -> SampleCounts:
    unprocessed = unique - sum(states.values())
    return SampleCounts(rows=unique + duplicates, unique=unique, duplicates=duplicates, unprocessed=unprocessed, **states)


def make_status(samples: SampleCounts | None = None, **fields: Any) -> RunStatus:
    counts = samples or make_counts()
    asked: dict[str, Any] = {
        "run_id": "tiny-1f0c92b4d7aa",
        "model": "tiny",
        "state": "running",
        "reason": None,
        "samples": counts,
        "datasets": {"rows": counts},
        "retrying": 0,
        "samples_per_s": 0.0,
        "tokens_per_s": 0.0,
        "eta_s": None,
        "workers": (WORKER,),
    }
    return RunStatus(**{**asked, **fields})
