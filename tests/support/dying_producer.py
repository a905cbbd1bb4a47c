"""``python -m tests.support.dying_producer POINT ARGUMENT...``: the ``producer`` command, killed by SIGKILL at a named point."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from celery import Celery

import producer.enqueue
from common.ledger import Ledger
from common.store import Store
from producer.cli import main

RUNG_BEFORE_DEATH = 1100  # more than one batch of 1000 messages, so that some have been sent and some have not


def kill_at(owner: Any, name: str, *, before: bool = False, calls: int = 1) -> None:
    """Make a function of ``owner`` end this process at its ``calls``-th call, after or ``before`` its work."""
    function: Callable[..., Any] = getattr(owner, name)
    left = calls

    def wrapped(*given: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if before and left == 0:
            die()
        result = function(*given, **named)
        if left == 0:
            die()
        return result

    setattr(owner, name, wrapped)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


POINTS: dict[str, Callable[[], None]] = {
    "after_samples": lambda: kill_at(Store, "put", before=True),
    "after_index": lambda: kill_at(Store, "put"),
    "after_run_record": lambda: kill_at(producer.enqueue, "plan_run"),
    "after_open": lambda: kill_at(Ledger, "open_run"),
    "while_committing_parts": lambda: kill_at(Ledger, "commit", calls=2),
    "while_ringing": lambda: kill_at(Celery, "send_task", calls=RUNG_BEFORE_DEATH),
}

if __name__ == "__main__":
    point = sys.argv.pop(1)
    POINTS[point]()
    main()
