"""Faults of kombu's Redis transport that would stop a worker."""

# mypy: disallow-untyped-calls=False

import bz2
import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer
from redis import Redis

from common.broker.app import make_app
from common.settings import Settings
from tests.support.waiting import wait_until

QUEUE = "fleet.tried"
BOMB = bz2.compress(bytes(1_000_000))  # 45 bytes that decode to a million bytes


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    with make_app(Settings(redis_url=redis_url)).connection_for_write() as connection:
        yield connection


@pytest.mark.parametrize("answer", ["ack", "reject", "requeue"])
def test_late_acknowledgement_on_closed_connection_is_ignored(connection: Connection, answer: str) -> None:
    with connection.SimpleQueue(QUEUE) as queue:
        queue.put({"run_id": "tried-1"})
        message = queue.get(timeout=10)
        connection.collect()  # Celery does this with a lost connection
        message.channel._disconnect_pools()  # noqa: SLF001  # as after an outage: collect() here could reach the server
        getattr(message, answer)()  # kombu 5.7 raises AttributeError here, which ends Celery's loop
        assert message.acknowledged


@pytest.mark.parametrize(
    ("content_type", "encoding", "compression"),
    [
        ("application/json", "utf-8", "application/x-bz2"),
        ("application/json", "utf-8", ["gzip"]),
        ("application/json", ["utf-8"], None),
        ("application/data", "bz2", None),
        ("application/text", "ZLIB", None),
        (None, "bz2", None),
    ],
)
def test_compressed_message_is_never_decoded(
    connection: Connection, redis_url: str, content_type: object, encoding: object, compression: object
) -> None:
    described = {"content-type": content_type, "content-encoding": encoding, "headers": {"compression": compression}}
    info = {"exchange": "", "routing_key": QUEUE}
    properties = {"delivery_tag": "tag", "body_encoding": "base64", "delivery_info": info}
    entry = json.dumps({"body": b64encode(BOMB).decode(), "properties": properties, **described})
    received: list[Any] = []
    with Consumer(connection, [Queue(QUEUE)], on_message=received.append, accept=["json"], no_ack=True):
        with Redis.from_url(redis_url) as client:
            client.lpush(QUEUE, entry)
        connection.Producer().publish({"last": True}, routing_key=QUEUE, serializer="json")
        wait_until(lambda: _read(connection) and received, "the message after the compressed one")
    assert [message.payload for message in received] == [{"last": True}]


def test_invalid_broadcast_is_dropped(connection: Connection, redis_url: str) -> None:
    received: list[Any] = []
    where = Exchange("tried.pidbox", type="fanout")
    queue = Queue("listening", where, auto_delete=True)
    with Consumer(connection, [queue], on_message=received.append, no_ack=True), Redis.from_url(redis_url) as client:
        wait_until(lambda: _read(connection) and client.pubsub_numpat(), "the subscription")
        for entry in (b"\x80", b"5", b"null", b"{}", b"[" * 200_000, b'{"a":' * 200_000, b'{"properties": 1}'):
            assert client.publish("/0.tried.pidbox", entry)
        connection.Producer().publish({"last": True}, exchange=where, serializer="json")
        wait_until(lambda: _read(connection) and received, "the message after the invalid ones")
    assert [message.payload for message in received] == [{"last": True}]


def _read(connection: Connection) -> bool:
    """Read the messages that have arrived. Return True, even if the queue is empty."""
    with suppress(TimeoutError):
        connection.drain_events(timeout=0.2)
    return True
