"""The ``producer`` command, which sends itself a signal at a named point.

    python -m tests.support.faults.signalled_producer POINT[/SIGNAL] ARGUMENT...

The default signal is SIGKILL. Ctrl+C sends SIGINT, and the command then ends by itself.
"""

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from celery import Celery

import producer.planning.shuffle
import producer.runs.enqueue
from common.ledger.ledger import Ledger
from common.storage.store import Store, Writer
from producer.__main__ import main

MESSAGES_BEFORE_SIGNAL = 1100  # more than one batch of 1000 messages, so that only one batch is sent
BY = signal.SIGKILL


def signal_at(owner: Any, name: str, *, before: bool = False, calls: int = 1) -> None:
    """Replace a function of ``owner`` so that it signals this process at its ``calls``-th call, after or ``before`` its work."""
    function: Callable[..., Any] = getattr(owner, name)
    counter = count(1)

    def wrapped(*given: Any, **named: Any) -> Any:
        is_due = next(counter) == calls
        if is_due and before:
            os.kill(os.getpid(), BY)
        result = function(*given, **named)
        if is_due and not before:
            os.kill(os.getpid(), BY)
        return result

    setattr(owner, name, wrapped)


# Steps of ``enqueue`` at which ``tests/integration/test_producer_commands.py`` kills it and checks the remaining state.
POINTS: dict[str, Callable[[], None]] = {
    "after_samples": lambda: signal_at(Store, "put", before=True),
    "after_index": lambda: signal_at(Store, "put"),
    "after_run_record": lambda: signal_at(producer.runs.enqueue, "plan_run"),
    "after_open": lambda: signal_at(Ledger, "open_run"),
    "while_committing_parts": lambda: signal_at(Ledger, "commit", calls=2),
    "while_ringing": lambda: signal_at(Celery, "send_task", calls=MESSAGES_BEFORE_SIGNAL),
}
MORE_POINTS: dict[str, Callable[[], None]] = {
    "while_sorting_samples": lambda: signal_at(producer.planning.shuffle, "estimate_input_bytes", calls=20),
    "while_writing_samples": lambda: signal_at(Writer, "write", calls=2),
    "after_three_rings": lambda: signal_at(Celery, "send_task", calls=3),
    "after_forgetting": lambda: signal_at(Ledger, "forget_run"),
    "while_reading_parts": lambda: signal_at(Store, "get", calls=6),
    "while_reading_answers": lambda: signal_at(Store, "get", calls=10),  # the run's record and index come first, twice
    "while_writing_results": lambda: signal_at(pq.ParquetWriter, "write_table"),
    "before_results_appear": lambda: signal_at(Path, "replace", before=True),
    "between_two_results": lambda: signal_at(Path, "replace"),
}

if __name__ == "__main__":
    point, _, signal_name = sys.argv.pop(1).partition("/")
    BY = signal.Signals[signal_name or "SIGKILL"]
    {**POINTS, **MORE_POINTS}[point]()
    main()
