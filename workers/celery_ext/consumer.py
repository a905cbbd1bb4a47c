"""Celery's consumer, except that neither a message which cannot be read nor a lost connection ends the worker."""

from collections.abc import Callable
from typing import Any

import structlog
from celery.worker.consumer import Consumer as CeleryConsumer

log = structlog.get_logger()

# What code raises that is given other values than it expects.  A lost connection is none of these.
_MALFORMED = (TypeError, ValueError, LookupError, AttributeError)


class Consumer(CeleryConsumer):  # type: ignore[misc]  # Celery has no types
    """Logs and acknowledges a message of any wrong shape: it was a doorbell, and the janitor rings again.

    Celery takes some of them for its own failure: it ends the worker and puts the message back, for the next worker to fall over.
    """

    def create_task_handler(self) -> Callable[[Any], None]:
        read = super().create_task_handler()

        def read_or_drop(message: Any) -> None:
            try:
                read(message)
            except _MALFORMED as error:
                self.on_decode_error(message, error)

        return read_or_drop

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of the broken connection.  Celery connects anew after this, whatever became of the old one."""
        try:
            super().on_connection_error_after_connected(exc)
        except Exception as error:  # noqa: BLE001  a connection torn down already fails in closing in any way (kombu 5.7: AttributeError)
            log.debug("the broken connection could not be closed", error=repr(error))
