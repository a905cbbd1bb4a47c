"""The connection to Redis: a client with retries, and errors that state the address and what to do."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from common.errors import ConfigError, ServiceUnreachable
from common.redaction import mask_text
from common.settings import Settings

# Transient errors: Redis is unreachable or loading, out of memory (maxmemory with noeviction), or a replica before its promotion.
_RETRIED = (redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError, redis.ReadOnlyError)
_TEMPORARY = (*_RETRIED, redis.exceptions.MasterDownError, redis.exceptions.NoPermissionError)
# redis-py does not have classes for these errors: the disk of Redis is full, or the primary has lost its replicas.
_TEMPORARY_CODES = ("MISCONF ", "NOREPLICAS ")

# OpenSSL's messages for a certificate outside its validity period. The error ends when the certificate is renewed.
_OUT_OF_DATE = re.compile("certificate (has expired|is not yet valid)")
_HANDSHAKE_S = 1.0
_PAUSE_S = 0.05


def connect_redis(settings: Settings, *, patience_s: int = 3) -> redis.Redis:
    """Return a client that retries for about ``patience_s`` seconds, at most 1 s apart.

    Every command of the ledger is idempotent. If a third of a lease passes without a reply, the client sends the command
    again. A worker whose connection hangs therefore keeps its leases. Raises ``ServiceUnreachable`` if Redis does not respond
    and ``ConfigError`` for an invalid address.
    """
    url = settings.redis_url.get_secret_value()
    try:
        pool = _Pool.from_url(
            url,
            socket_timeout=min(30.0, max(1.0, settings.lease_s / 3)),
            socket_connect_timeout=5,
            health_check_interval=30,
            retry=Retry(ExponentialBackoff(base=0.1, cap=1.0), patience_s + 3),
            retry_on_error=list(_RETRIED),
        )
    except ValueError:  # an unknown scheme or port; the message of redis-py may contain the password
        raise ConfigError("FLEET_REDIS_URL: expected an address such as redis://:password@host:6379/0") from None
    client = redis.Redis.from_pool(pool)
    with reaching_redis(settings):
        client.ping()
    return client


class _Pool(redis.ConnectionPool):
    """A pool that retries the handshake of a new connection for ``_HANDSHAKE_S``.

    redis-py 8.1 retries the TCP connect and the command, but not the handshake between them. Without this retry, a command
    fails if Redis closes the connection during the handshake, although the command can be repeated.
    """

    def get_connection(self, *args: Any, **options: Any) -> redis.Connection:
        gives_up_at = time.monotonic() + _HANDSHAKE_S
        while True:
            try:
                return super().get_connection(*args, **options)
            except redis.AuthenticationError:
                raise
            except (redis.ConnectionError, redis.TimeoutError):  # in an outage, the TCP connect was already retried for longer
                if time.monotonic() >= gives_up_at:
                    raise
                time.sleep(_PAUSE_S)


def is_temporary(error: redis.RedisError) -> bool:
    """Return whether Redis may accept the same command later, without a change of this fleet's configuration."""
    return isinstance(error, _TEMPORARY) or str(error).startswith(_TEMPORARY_CODES)


@contextmanager
def reaching_redis(settings: Settings) -> Iterator[None]:
    """Raise ``ServiceUnreachable`` if, inside the block, Redis is unreachable or temporarily rejects commands.

    Raises ``ConfigError`` if Redis rejects the password or if its certificate is not valid.
    """
    try:
        yield
    except redis.RedisError as error:
        address = mask_text(settings.redis_url.get_secret_value()).partition("://")[2].removeprefix("***@")
        if "DB index is out of range" in str(error):
            raise ConfigError(
                f"Redis at {address} does not have the database at the end of FLEET_REDIS_URL; correct its number"
            ) from error
        if not is_temporary(error):
            raise
        if isinstance(error, redis.AuthenticationError):
            raise ConfigError(
                f"Redis at {address} rejects the user or password ({error}); correct them in FLEET_REDIS_URL"
            ) from error
        if "CERTIFICATE_VERIFY_FAILED" in str(error) and not _OUT_OF_DATE.search(str(error)):
            raise ConfigError(
                f"Redis at {address}: its certificate cannot be verified ({error}); if a private authority signed it, "
                "add ?ssl_ca_certs=FILE with the authority's certificate to FLEET_REDIS_URL"
            ) from error
        raise ServiceUnreachable(f"Redis at {address} {_explain(error)}") from error


def _explain(error: redis.RedisError) -> str:
    if isinstance(error, redis.OutOfMemoryError):
        return "is out of memory; nothing is lost. Raise its maxmemory or delete old runs, then run the same command again"
    if isinstance(error, redis.ReadOnlyError):
        return "does not accept writes: it is a replica; set FLEET_REDIS_URL to the address of the primary"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return (
            f"does not permit a command ({error}); nothing is lost. Allow the user all commands and keys, then run the same "
            "command again"
        )
    if _OUT_OF_DATE.search(str(error)):
        return f"has a certificate that is out of date ({error}); renew it, or correct the clock of this machine"
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return f"does not answer ({error.__class__.__name__}); check that it runs and that FLEET_REDIS_URL is correct"
    return f"rejects commands now ({error}); nothing is lost. Correct the reported fault, then run the same command again"
