"""Detect a worker that does not take messages although messages wait and it has room."""

import time
from collections.abc import Callable

from celery.worker import state

from common.settings import Settings

_PATIENCE_LEASES = 3.0


class Consumption:
    """Compares the messages in the queue with the messages that Celery has taken, at every heartbeat of a worker.

    A worker whose consumer is stuck still renews its leases and is listed as ready. Its record must therefore name the trouble.
    Known causes are a missing permission in Redis, a blocked main thread, and a slot in the prefetch limit that is never freed.
    """

    def __init__(self, count_waiting: Callable[[], int], settings: Settings) -> None:
        self._count_waiting = count_waiting
        self._places = settings.chunks_in_flight
        self._patience_s = _PATIENCE_LEASES * settings.lease_s
        self._taken = -1
        self._since_s = 0.0

    def describe_trouble(self) -> str | None:
        """Return the trouble if this worker had room but has not taken a waiting message for three lease times."""
        waiting, taken = self._count_waiting(), state.all_total_count[0]
        has_room = len(state.reserved_requests) < self._places
        now = time.monotonic()
        if taken != self._taken or not (waiting and has_room):
            self._taken, self._since_s = taken, now
        if (idle_s := now - self._since_s) < self._patience_s:
            return None
        return (
            f"has not taken a message for {idle_s:.0f} s although {waiting:,} wait in the queue and it has room; see its log, "
            "check that its Redis user may read the queue (BRPOP), then restart the worker"
        )
