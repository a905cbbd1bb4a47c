"""The Celery app. A message only names a chunk of a run to check, and it may arrive twice, late or never."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

import redis
from celery import Celery
from kombu.exceptions import BatchPublishError, OperationalError
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils.url import as_url
from redis.connection import parse_url

from common.broker.queues import queue_name
from common.errors import ServiceUnreachable
from common.settings import Settings
from common.storage.plan_index import ChunkIndex

TASK_NAME = "fleet.run_chunk"

# Register our transport under the URL schemes of Redis. kombu then parses Redis and TLS addresses without further changes.
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "common.broker.transport:Transport"))


def make_app(settings: Settings) -> Celery:
    """Return the Celery app of producers and workers."""
    url = settings.redis_url.get_secret_value()
    # Without a timeout, a send over a dead connection blocks forever, for example after a failover. The heartbeat also sends
    # messages, so the timeout is shorter than a lease. It is longer than 1 s, because BRPOP blocks on the server for 1 s.
    timeout_s = min(5.0, max(2.0, settings.lease_s / 3))
    app = Celery("vlm-fleet", broker=read_broker_url(url))
    app.conf.update(
        broker_use_ssl=read_tls_options(url) or False,  # Flower reads this; other clients read the address
        # Accept only JSON, for tasks, remote control, events and results: unpickling a message can run any code of its sender.
        accept_content=["json"],
        result_accept_content=["json"],
        task_serializer="json",
        event_serializer="json",
        result_serializer="json",
        task_ignore_result=True,  # the ledger and the store keep outcomes; a result backend reduces throughput by 28 %
        task_acks_late=False,  # the lease in the ledger, not the message, decides which worker runs a chunk
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,  # Flower displays the events
        worker_hijack_root_logger=False,
        worker_enable_prefetch_count_reduction=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,  # an error of Redis, such as "out of memory", must not end the worker
        broker_transport_options={
            "visibility_timeout": 3600,
            "health_check_interval": 10,
            "socket_keepalive": True,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
        },
    )
    return app


def read_broker_url(url: str) -> str:
    """Return the address ``url`` in the form that Celery reads: percent-encoded, with only the TLS options."""
    address = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py has no types here
    scheme = url.partition("://")[0]
    user, password = address.get("username"), address.get("password")
    plain = as_url(scheme, address.get("host", "localhost"), address.get("port"), user, password, str(address.get("db", 0)))
    options = read_tls_options(url)
    return f"{plain}?{urlencode(options)}" if options else plain


def read_tls_options(url: str) -> dict[str, Any]:
    """Return the TLS options of a ``rediss://`` address, and an empty mapping for other addresses.

    By default, Kombu does not verify the server's certificate. These options verify it by default, as redis-py does. The
    address can name a private authority: ``rediss://host:6380/0?ssl_ca_certs=/etc/fleet/ca.pem``.
    """
    if not url.startswith("rediss://"):
        return {}
    address = parse_url(url)  # type: ignore[no-untyped-call]  # as above
    return {"ssl_cert_reqs": "required", **{name: value for name, value in address.items() if name.startswith("ssl_")}}


def ring(app: Celery, model: str, run_id: str, chunks: Iterable[int], index: ChunkIndex | None = None) -> int:
    """Publish one message for each chunk, in batches. Return the number of messages.

    With the run's ``index``, Flower shows the number of samples of each chunk. If a batch fails half-way, a janitor publishes
    messages for the pending chunks later. Raises ``ServiceUnreachable`` if Redis fails or does not respond. The next call then
    opens a new connection.
    """
    rung = 0
    try:
        with app.producer_pool.acquire(block=True) as producer, producer.batch():
            for chunk in chunks:
                shown = describe_chunk(model, run_id, chunk, index)
                app.send_task(TASK_NAME, args=(run_id, chunk), queue=queue_name(model), producer=producer, argsrepr=shown)
                rung += 1
    except (OperationalError, BatchPublishError) as error:  # the cause of a BatchPublishError has the reason
        why = error.__cause__ or error
        raise ServiceUnreachable(
            f"Redis failed while messages for {run_id} were published (at most {rung} so far): {why}"
        ) from error
    return rung


def describe_chunk(model: str, run_id: str, chunk: int, index: ChunkIndex | None) -> str:
    """Return ``model · run · chunk n · m samples`` for users. Omit the samples if ``index`` does not contain the chunk."""
    named = f"{model} · {run_id} · chunk {chunk}"
    return named if index is None or chunk >= len(index) else f"{named} · {index[chunk].count} samples"


def count_waiting(client: redis.Redis, model: str) -> int:
    """Return the number of messages in a model's queue."""
    return int(client.llen(queue_name(model)))
