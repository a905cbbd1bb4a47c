"""Celery's consumer, except that neither an unreadable message nor a lost connection ends the worker."""

from collections.abc import Callable
from typing import Any

import structlog
from celery.worker.consumer import Consumer as CeleryConsumer

log = structlog.get_logger()

# What code raises when it is given unexpected values. A lost connection raises none of these.
_MALFORMED = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_MOST_CHARACTERS = 16_384  # of headers and body; a message of the fleet has about 1 000


class Consumer(CeleryConsumer):  # type: ignore[misc]  # Celery has no types
    """Log and acknowledge a malformed message. It was only a doorbell, and the janitor sends another.

    Celery treats some malformed messages as failures of its own: it ends the worker and returns the message to the queue, where
    the next worker fails on it. A message with an ``eta`` is dropped: Celery would hold it, and raise the prefetch limit for it.
    So is a large one: Celery would repeat its headers in events, which Flower shows.
    """

    def create_task_handler(self) -> Callable[[Any], None]:
        read = super().create_task_handler()

        def read_or_drop(message: Any) -> None:
            if reason := _find_refusal(message):
                log.warning("message.dropped", reason=reason)
                message.ack()
                return
            try:
                read(message)
            except _MALFORMED as error:
                self.on_decode_error(message, error)

        return read_or_drop

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the broken connection. Celery reconnects afterwards, whether or not closing succeeds."""
        try:
            super().on_connection_error_after_connected(exc)
        except Exception as error:  # noqa: BLE001  closing a connection that is torn down can fail in any way (kombu 5.7: AttributeError)
            log.debug("broker.close_failed", error=repr(error))


def _find_refusal(message: Any) -> str | None:
    """Return why a message is dropped although Celery could read it, or None."""
    if len(message.body or "") + len(repr(message.headers)) > _MOST_CHARACTERS:
        return f"it has more than {_MOST_CHARACTERS:,} characters, and the fleet publishes none of that size"
    return "it has an eta, and the fleet publishes none" if _has_eta(message) else None


def _has_eta(message: Any) -> bool:
    """Return whether Celery would hold the message until a time that it names, in one of the two places for it."""
    try:
        return bool(message.headers.get("eta") or (isinstance(message.payload, dict) and message.payload.get("eta")))
    except Exception:  # noqa: BLE001  a body that cannot be decoded has none; Celery reports why
        return False
