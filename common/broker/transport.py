"""The Redis transport of kombu, with three faults of kombu 5.7 fixed.

kombu frees a message's place in the prefetch limit only after Redis has confirmed the acknowledgement.  A message whose
acknowledgement fails on a lost connection keeps its place.  A worker that has lost all places never asks for a message again,
although it is connected and healthy.

An entry of the queue's list that is not a message, such as binary garbage, ends the worker.  Here it is logged and dropped.

After a reconnect, the acknowledgement of a message from the old connection raises ``AttributeError``, which ends the worker.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from kombu.transport import redis, virtual
from redis.exceptions import DataError

log = structlog.get_logger()

# What kombu raises for an entry that is not JSON, and for JSON that is not a message.  A lost connection raises none of these.
_NOT_JSON = (ValueError, RecursionError)
_NOT_A_MESSAGE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, DataError)


class QoS(redis.QoS):
    """Free the slot even if the acknowledgement fails.

    Redis delivers the message again later, which is harmless: a message only names a chunk to check.
    """

    def ack(self, delivery_tag: str) -> None:
        with self._free_place(delivery_tag):
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]  # kombu has no types here

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        with self._free_place(delivery_tag):
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]  # as above

    @contextmanager
    def _free_place(self, delivery_tag: str) -> Iterator[None]:
        try:
            yield
        except AttributeError:
            if not self._is_closed():
                raise
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]  # as above; the places are a set, so a second call does nothing

    def _is_closed(self) -> bool:
        """Return whether the connection of this channel has been closed, so that no command can be sent on it."""
        connection = self.channel.connection
        return connection is None or connection.client is None


class Channel(redis.Channel):
    QoS = QoS

    def _brpop_read(self, **options: Any) -> bool:
        try:
            return bool(super()._brpop_read(**options))  # type: ignore[no-untyped-call]  # as above
        except _NOT_JSON as error:
            _log_dropped(error)
            return True


class Transport(redis.Transport):
    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]  # as above
        except _NOT_A_MESSAGE as error:
            _log_dropped(error)


def _log_dropped(error: Exception) -> None:
    log.warning("message.dropped", reason="the entry of the queue is not a message", error=f"{type(error).__name__}: {error}")
