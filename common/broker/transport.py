"""The Redis transport of kombu, with one fault mended: an acknowledgement that fails must not cost a place for ever.

Kombu 5.7 frees a message's place among those that a worker may hold at once only after Redis has confirmed the
acknowledgement.  Each that meets a lost connection keeps its place, and a worker that has lost all of them never asks for a
message again, though it is connected and well.
"""

from kombu.transport import redis, virtual


class QoS(redis.QoS):
    """Frees the place whatever Redis says; what it did not hear of comes again one day, and is only a doorbell."""

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]  # kombu has no types here
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]  # the same; twice is once: a set of places


class Channel(redis.Channel):
    QoS = QoS


class Transport(redis.Transport):
    Channel = Channel
