"""Signal handlers of a worker process.

Celery's own handlers do not work with a pool of threads. A cold shutdown returns messages to the queue while their tasks still
run. SIGHUP restarts the program while chunks run.
"""

import signal
from collections.abc import Callable
from types import FrameType

from celery.worker import state

from workers.supervisor.signals import DRAINING


def handle_signals(begin_drain: Callable[[bool], None]) -> None:
    """Drain this worker process on a signal of ``DRAINING``, and without a grace period on SIGQUIT or a second SIGINT.

    The argument of ``begin_drain`` states whether to skip the grace period. The function may be called many times. Other
    repeated signals do not skip the period: systemd, for example, sends SIGTERM to the launcher and to its workers.
    """
    interrupts = 0

    def take(number: int, frame: FrameType | None) -> None:
        del frame
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        begin_drain(number == signal.SIGQUIT or interrupts > 1)
        state.should_stop = 0  # Celery reads this exit code between two messages, then exits

    for number in (*DRAINING, signal.SIGQUIT):
        signal.signal(number, take)
