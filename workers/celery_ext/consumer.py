"""A Celery consumer that continues after an unreadable message or a lost connection."""

from collections.abc import Callable
from typing import Any

import structlog
from celery.worker.consumer import Consumer as CeleryConsumer

log = structlog.get_logger()

# The exceptions that Celery raises for a malformed message. A lost connection raises other exceptions.
_MALFORMED = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_MOST_CHARACTERS = 16_384  # of headers and body; the fleet's messages have about 1 000


class Consumer(CeleryConsumer):  # type: ignore[misc]  # Celery has no types
    """Logs and acknowledges malformed messages. The ledger keeps the chunk, and the janitor sends another message for it.

    Celery treats some malformed messages as internal errors: it ends the worker and returns the message to the queue, where
    the next worker fails on it.

    The consumer also drops two kinds of readable messages. Celery would hold a message with an ``eta``, and raise the prefetch
    limit for it. Celery would repeat the headers of a large message in events, which Flower shows.
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
        except Exception as error:  # noqa: BLE001  closing a broken connection can raise any exception (kombu 5.7: AttributeError)
            log.debug("broker.close_failed", error=repr(error))


def _find_refusal(message: Any) -> str | None:
    """Return the reason to drop a message that Celery could read, or ``None``."""
    if len(message.body or "") + len(repr(message.headers)) > _MOST_CHARACTERS:
        return f"it has more than {_MOST_CHARACTERS:,} characters; the fleet's messages are smaller"
    return "it has an eta; the fleet's messages do not have one" if _has_eta(message) else None


def _has_eta(message: Any) -> bool:
    """Return whether the headers or the body have an ``eta``. Celery would hold the message until that time."""
    try:
        return bool(message.headers.get("eta") or (isinstance(message.payload, dict) and message.payload.get("eta")))
    except Exception:  # noqa: BLE001  a body that cannot be decoded does not have an eta; Celery reports the error
        return False
