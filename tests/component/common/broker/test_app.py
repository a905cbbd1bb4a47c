"""The Celery app sends small messages to the right queue, and has the settings that the design depends on."""

import base64
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from common.broker.app import TASK_NAME, count_waiting, make_app, read_tls_options, ring
from common.broker.queues import queue_name
from common.errors import ServiceUnreachable
from common.settings import Settings
from common.storage.plan_index import ChunkIndex
from common.storage.store import open_store
from tests.support.planning import make_samples, make_spec, plan_samples, read_rung
from tests.support.servers.stalling_proxy import start_stalling_proxy


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def index(tmp_path: Path) -> ChunkIndex:
    """Return the index of a run of 20 samples in chunks of 8, 8 and 4."""
    return plan_samples(open_store(str(tmp_path)), make_samples(20), make_spec(max_samples=8))[1]


def read_messages(client: redis.Redis, model: str) -> list[dict[str, Any]]:
    """Return the messages of a queue in the order of delivery."""
    messages: Any = client.lrange(queue_name(model), 0, -1)
    return [json.loads(message) for message in reversed(messages)]


def test_ring_publishes_run_id_and_chunk_number(client: redis.Redis, redis_url: str) -> None:
    assert ring(make_app(Settings(redis_url=redis_url)), "tiny", "tiny-1", iter([4, 2, 9])) == 3
    messages = read_messages(client, "tiny")
    bodies = [json.loads(base64.b64decode(message["body"])) for message in messages]
    assert [body[0] for body in bodies] == [["tiny-1", 4], ["tiny-1", 2], ["tiny-1", 9]]
    assert {message["headers"]["task"] for message in messages} == {TASK_NAME}
    assert count_waiting(client, "tiny") == 3
    assert count_waiting(client, "other") == 0
    assert max(len(json.dumps(message)) for message in messages) < 1500


def test_flower_shows_model_run_chunk_and_samples(client: redis.Redis, redis_url: str, index: ChunkIndex) -> None:
    app = make_app(Settings(redis_url=redis_url))
    ring(app, "tiny", "tiny-1", [0, 2, 3], index)  # chunk 3 belongs to a later wave and is not in this index
    ring(app, "tiny", "tiny-1", [7])
    assert [message["headers"]["argsrepr"] for message in read_messages(client, "tiny")] == [
        "tiny · tiny-1 · chunk 0 · 8 samples",
        "tiny · tiny-1 · chunk 2 · 4 samples",
        "tiny · tiny-1 · chunk 3",
        "tiny · tiny-1 · chunk 7",
    ]


def test_ring_without_chunks_does_not_publish(client: redis.Redis, redis_url: str) -> None:
    assert ring(make_app(Settings(redis_url=redis_url)), "tiny", "tiny-1", []) == 0
    assert count_waiting(client, "tiny") == 0


def test_chunks_beyond_one_batch_arrive_in_order(client: redis.Redis, redis_url: str) -> None:
    assert ring(make_app(Settings(redis_url=redis_url)), "tiny", "tiny-1", range(1000)) == 1000
    bodies = [json.loads(base64.b64decode(message["body"])) for message in read_messages(client, "tiny")]
    assert [body[0][1] for body in bodies] == list(range(1000))


def test_ring_times_out_on_stalled_connection(client: redis.Redis, redis_url: str) -> None:
    """The heartbeat also publishes messages. A call without a timeout would block the heartbeat, and leases would expire."""
    with start_stalling_proxy(redis_url) as (url, link):
        app = make_app(Settings(redis_url=url, lease_s=6))
        ring(app, "tiny", "tiny-1", [0])
        link.stall()
        with pytest.raises(ServiceUnreachable, match=r"messages for tiny-1 .*Timeout"):
            ring(app, "tiny", "tiny-1", [1])
        assert ring(app, "tiny", "tiny-1", [2]) == 1
        link.stall(permanently=True)
        for _ in range(2):  # the first call uses the open connection, the second call needs a new one
            with pytest.raises(ServiceUnreachable, match=r"messages for tiny-1 .*Timeout"):
                ring(app, "tiny", "tiny-1", [3])
    assert read_rung(client, "tiny") == [0, 2]


def test_socket_timeout_is_bounded_third_of_lease(redis_url: str) -> None:
    for lease_s, expected in ((1, 2.0), (10, 10 / 3), (600, 5.0)):
        app = make_app(Settings(redis_url=redis_url, lease_s=lease_s, renew_s=0.5))
        with app.connection() as connection:
            kept = connection.default_channel.client.connection_pool.connection_kwargs
            assert kept["socket_timeout"] == kept["socket_connect_timeout"] == pytest.approx(expected)
            assert kept["socket_timeout"] > connection.transport.brpop_timeout
    with app.connection() as connection:
        assert connection.default_channel.supports_batch_publish, (
            "kombu disables batches if an option for retries is set; do not set one"
        )


@pytest.mark.parametrize("after", [0, 1], ids=["the last batch", "a full batch"])
def test_connection_lost_while_sending_is_service_unreachable(redis_url: str, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Kombu raises its own error for a batch. ``ring`` converts it, so that a command exits with code 3 without a traceback."""
    app = make_app(Settings(redis_url=redis_url))
    ring(app, "tiny", "tiny-1", [0])

    def fail(_: redis.client.Pipeline) -> None:
        raise redis.ConnectionError("Connection closed by server.")

    monkeypatch.setattr(redis.client.Pipeline, "execute", fail)
    chunks = 1500 * after + 2
    with pytest.raises(ServiceUnreachable, match=r"messages for tiny-1 .*Connection closed by server"):
        ring(app, "tiny", "tiny-1", range(chunks))
    monkeypatch.undo()
    assert ring(app, "tiny", "tiny-1", range(chunks)) == chunks


def test_full_redis_rejects_messages_with_reason(client: redis.Redis, redis_url: str) -> None:
    app = make_app(Settings(redis_url=redis_url))
    ring(app, "tiny", "tiny-1", [0])
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(ServiceUnreachable, match="maxmemory"):
            ring(app, "tiny", "tiny-1", [1])
    finally:
        client.config_set("maxmemory", 0)


def test_messages_are_acknowledged_early_without_results(client: redis.Redis, redis_url: str) -> None:
    conf = make_app(Settings(redis_url=redis_url)).conf
    assert not conf.task_acks_late
    assert conf.task_ignore_result
    assert conf.result_backend is None
    assert conf.broker_connection_max_retries is None


def test_only_json_is_accepted_and_written(redis_url: str) -> None:
    conf = make_app(Settings(redis_url=redis_url)).conf
    assert conf.accept_content == conf.result_accept_content == ["json"]
    assert {conf.task_serializer, conf.event_serializer, conf.result_serializer} == {"json"}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", ("redis", "host", None, None, None, "0")),
        ("redis://:p%40ss%3Aw%2Ford%25@host:7000/3", ("redis", "host", 7000, None, "p@ss:w/ord%", "3")),
        ("redis://me:a;b+c@[::1]:7000", ("redis", "::1", 7000, "me", "a;b+c", "0")),  # kombu splits addresses at ";"
        ("redis://host:7000?db=3&socket_timeout=5", ("redis", "host", 7000, None, None, "3")),
        ("rediss://:pw@host:6380/1", ("rediss", "host", 6380, None, "pw", "1")),
    ],
)
def test_celery_parses_addresses_like_the_ledger(url: str, expected: tuple[object, ...]) -> None:
    connection = make_app(Settings(redis_url=url)).connection()
    read = (connection.hostname, connection.port, connection.userid, connection.password, connection.virtual_host)
    assert (connection.transport_cls, *read) == expected


def test_certificates_are_verified_unless_address_disables_it() -> None:
    assert read_tls_options("redis://host") == {}
    assert read_tls_options("rediss://host") == {"ssl_cert_reqs": "required"}
    named = read_tls_options("rediss://host?ssl_ca_certs=/etc/my%20ca.pem")
    assert named == {"ssl_cert_reqs": "required", "ssl_ca_certs": "/etc/my ca.pem"}
    assert read_tls_options("rediss://host?ssl_cert_reqs=none") == {"ssl_cert_reqs": "none"}
    for url, verified in (
        ("rediss://host?ssl_ca_certs=/etc/my%20ca.pem", ssl.CERT_REQUIRED),
        ("rediss://host?ssl_cert_reqs=none", ssl.CERT_NONE),
    ):
        app = make_app(Settings(redis_url=url))
        assert app.connection().ssl["ssl_cert_reqs"] == verified
        assert app.connection().ssl.get("ssl_ca_certs") == read_tls_options(url).get("ssl_ca_certs")
        assert app.conf.broker_use_ssl == read_tls_options(url)  # Flower reads this setting
