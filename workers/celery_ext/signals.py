"""Signal handlers of a worker process.

Celery's own handlers do not fit a pool of threads: its cold shutdown returns messages to the queue while their tasks still
run, and on SIGHUP it restarts the program in the middle of its chunks.
"""

import signal
from collections.abc import Callable
from types import FrameType

from celery.worker import state

from workers.supervisor.signals import DRAINING


def handle_signals(begin_drain: Callable[[bool], None]) -> None:
    """Make this worker process drain on the first of ``DRAINING``, and at once on SIGQUIT or a second SIGINT.

    ``begin_drain`` receives whether to drain at once, and may be called many times. Other signals may arrive twice: systemd,
    for one, sends SIGTERM to the launcher and to its workers.
    """
    interrupts = 0

    def take(number: int, frame: FrameType | None) -> None:
        del frame
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        begin_drain(number == signal.SIGQUIT or interrupts > 1)
        state.should_stop = 0  # Celery checks this between two messages, and exits with it as exit code

    for number in (*DRAINING, signal.SIGQUIT):
        signal.signal(number, take)
