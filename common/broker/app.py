"""The broker is a doorbell: a Celery message says only "look at chunk C of run R".  It may come twice, late or never."""

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

# By the names that addresses begin with, so that kombu reads these as ever, TLS included.
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "common.broker.transport:Transport"))


def make_app(settings: Settings) -> Celery:
    """Return the Celery app that producers ring with and workers listen with."""
    url = settings.redis_url.get_secret_value()
    # Without a limit whoever rings through a connection that has gone silent (a failover, a NAT that forgot it) waits for ever,
    # and a heartbeat rings: less than a lease.  More than the second for which the server holds back an answer to BRPOP.
    silence_s = min(5.0, max(2.0, settings.lease_s / 3))
    app = Celery("vlm-fleet", broker=read_broker_url(url))
    app.conf.update(
        broker_use_ssl=read_tls_options(url) or False,  # Flower looks here; all others at the address
        # JSON alone, for tasks, remote control, events and results: a pickle would be a program of whoever wrote it.
        accept_content=["json"],
        result_accept_content=["json"],
        task_serializer="json",
        event_serializer="json",
        result_serializer="json",
        task_ignore_result=True,  # outcomes go to the ledger and the store; a result backend costs 28 % of the rate
        task_acks_late=False,  # the lease in the ledger, not the message, says who works on a chunk
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,  # for Flower
        worker_hijack_root_logger=False,
        worker_enable_prefetch_count_reduction=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,  # an error of Redis, such as "out of memory", must not end the worker
        broker_transport_options={
            "visibility_timeout": 3600,
            "health_check_interval": 10,
            "socket_keepalive": True,
            "socket_timeout": silence_s,
            "socket_connect_timeout": silence_s,
        },
    )
    return app


def read_broker_url(url: str) -> str:
    """Return the address ``url`` as Celery takes it: everything encoded, and no options but those of TLS."""
    address = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py has no types here
    scheme = url.partition("://")[0]
    user, password = address.get("username"), address.get("password")
    plain = as_url(scheme, address.get("host", "localhost"), address.get("port"), user, password, str(address.get("db", 0)))
    options = read_tls_options(url)
    return f"{plain}?{urlencode(options)}" if options else plain


def read_tls_options(url: str) -> dict[str, Any]:
    """Return the options of a ``rediss://`` address, and none for any other.

    Kombu does not verify the server's certificate unless it is told to; here that is the default, as in redis-py.  A
    private authority is named in the address: ``rediss://host:6380/0?ssl_ca_certs=/etc/fleet/ca.pem``.
    """
    if not url.startswith("rediss://"):
        return {}
    address = parse_url(url)  # type: ignore[no-untyped-call]  # as above
    return {"ssl_cert_reqs": "required", **{name: value for name, value in address.items() if name.startswith("ssl_")}}


def ring(app: Celery, model: str, run_id: str, chunks: Iterable[int], index: ChunkIndex | None = None) -> int:
    """Publish one message for each chunk, in batches; return how many.

    With the run's ``index`` Flower shows how many samples each has.  A batch that fails half-way is no loss: a janitor rings
    again for what is pending.  Raises ``ServiceUnreachable``, also when a connection has gone silent: the next call makes another.
    """
    rung = 0
    try:
        with app.producer_pool.acquire(block=True) as producer, producer.batch():
            for chunk in chunks:
                shown = describe_chunk(model, run_id, chunk, index)
                app.send_task(TASK_NAME, args=(run_id, chunk), queue=queue_name(model), producer=producer, argsrepr=shown)
                rung += 1
    except (OperationalError, BatchPublishError) as error:  # the latter is no kind of the former; why is in its cause alone
        why = error.__cause__ or error
        raise ServiceUnreachable(f"Redis failed while {run_id} was rung for (at most {rung} chunks so far): {why}") from error
    return rung


def describe_chunk(model: str, run_id: str, chunk: int, index: ChunkIndex | None) -> str:
    """Return ``model · run · chunk n · m samples`` for a person, without the last where ``index`` does not reach that far."""
    named = f"{model} · {run_id} · chunk {chunk}"
    return named if index is None or chunk >= len(index) else f"{named} · {index[chunk].count} samples"


def count_waiting(client: redis.Redis, model: str) -> int:
    """Return how many messages wait in a model's queue."""
    return int(client.llen(queue_name(model)))
