"""The Redis transport of kombu, with fixes for four faults of kombu 5.7.

kombu frees a message's slot in the prefetch limit only after Redis has confirmed the acknowledgement. A message whose
acknowledgement fails on a lost connection keeps its slot. A worker that has lost all slots never fetches a message again,
although it is connected and able to work.

An entry of the queue's list or a broadcast that is not a message, such as random bytes, ends the worker. This transport logs
and drops such an entry.

kombu decompresses a message before it checks the content type, and decodes some types with any codec of Python. In a test, a
message of 306 bytes became 400 MB. The fleet does not publish encoded messages, so this transport drops them undecoded.

After a reconnect, the acknowledgement of a message from the old connection raises ``AttributeError``, which ends the worker.
"""

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from kombu.transport import redis, virtual
from redis.exceptions import DataError

log = structlog.get_logger()

# The exceptions that kombu raises for an entry that is not JSON, and for JSON that is not a message. A lost connection raises
# other exceptions.
_NOT_JSON = (ValueError, RecursionError)
_NOT_A_MESSAGE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, DataError)
_ENCODINGS = ("utf-8", "binary", None)  # kombu decodes "binary" without a codec


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
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]  # as above; the slots are a set: a second call is harmless

    def _is_closed(self) -> bool:
        """Return whether the connection of this channel is closed."""
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

    def _receive_one(self, client: Any) -> bool:
        try:
            return bool(super()._receive_one(client))  # type: ignore[no-untyped-call]  # as above
        except RecursionError as error:  # kombu handles the other errors of an entry that is not JSON
            _log_dropped(error)
            return True


class Transport(redis.Transport):
    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            _refuse_encoded(message)
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]  # as above
        except _NOT_A_MESSAGE as error:
            _log_dropped(error)


def _refuse_encoded(message: Any) -> None:
    """Raise ``ValueError`` for a message that kombu would decompress, or decode with a codec other than UTF-8."""
    compression, encoding = message["headers"].get("compression"), message.get("content-encoding")
    if compression or encoding not in _ENCODINGS:
        found = reprlib.repr(compression or encoding)
        raise ValueError(f"the message is encoded as {found}; expected uncompressed UTF-8")


def _log_dropped(error: Exception) -> None:
    log.warning("message.dropped", reason="it is not a message of the fleet", error=f"{type(error).__name__}: {error}")
