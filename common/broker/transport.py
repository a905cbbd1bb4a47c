"""Kombu's Redis transport with one fix: a failed acknowledgement must not use up the worker's prefetch limit.

Kombu 5.7 frees a message's place in the prefetch limit only after Redis has confirmed the acknowledgement.  A message whose
acknowledgement fails on a lost connection keeps its place.  A worker that has lost all places never asks for a message again,
although it is connected and healthy.
"""

from kombu.transport import redis, virtual


class QoS(redis.QoS):
    """Free the place even if the acknowledgement fails.  Redis then delivers the message again, which is harmless."""

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]  # kombu has no types here
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]  # as above; the places are a set, so a second call does nothing


class Channel(redis.Channel):
    QoS = QoS


class Transport(redis.Transport):
    Channel = Channel
