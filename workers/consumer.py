"""Celery's consumer, except that a message which cannot be read is dropped.

Celery takes some of them for its own failure: it ends the worker and puts the message back, for the next worker to fall over.
"""

from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer

# What code raises that is given other values than it expects.  A lost connection is none of these.
_MALFORMED = (TypeError, ValueError, LookupError, AttributeError)


class Consumer(CeleryConsumer):  # type: ignore[misc]  # Celery has no types
    """Logs and acknowledges a message of any wrong shape: it was a doorbell, and the janitor rings again."""

    def create_task_handler(self) -> Callable[[Any], None]:
        read = super().create_task_handler()

        def read_or_drop(message: Any) -> None:
            try:
                read(message)
            except _MALFORMED as error:
                self.on_decode_error(message, error)

        return read_or_drop
