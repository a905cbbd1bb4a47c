"""The connection to Redis retries errors that redis-py does not retry, and reports why a command was refused."""

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import redis

from common.errors import ConfigError, ServiceUnreachable
from common.exit_codes import UNREACHABLE
from common.ledger.connection import connect_redis, reaching_redis
from common.settings import Settings
from tests.support.faults.redis_faults import (
    full_redis,
    read_only_redis,
    redis_without_permission,
    redis_without_primary,
    redis_without_replicas,
    unsaved_redis,
)
from tests.support.fleet import Fleet
from tests.support.ledger import RUN, make_plan


def cut_handshakes(monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Make Redis close the next ``count`` connections during their handshake. Return a list with one entry per connection."""
    handshake, cut = redis.Connection.on_connect_check_health, list[int]()

    def cut_or_shake(connection: redis.Connection, check_health: bool = True) -> None:
        if len(cut) < count:
            cut.append(1)
            raise redis.ConnectionError("Connection closed by server.")
        handshake(connection, check_health=check_health)

    monkeypatch.setattr(redis.Connection, "on_connect_check_health", cut_or_shake)
    return cut


def test_interrupted_handshake_is_retried(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = cut_handshakes(monkeypatch, 3)
    with connect_redis(Settings(redis_url=redis_url), patience_s=0) as client:
        assert client.set("key", "value")
    assert len(cut) == 3


def test_permanent_handshake_failure_is_reported(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_handshakes(monkeypatch, 10**9)
    with pytest.raises(ServiceUnreachable, match="does not answer"):
        connect_redis(Settings(redis_url=redis_url), patience_s=0)


def read_and_write(client: redis.Redis) -> None:
    client.get("key")
    client.set("key", "value")


def write_in_script(fleet: Fleet) -> None:
    fleet.ledger.cancel_run(RUN, "enough")


def write_by_command(fleet: Fleet) -> None:
    read_and_write(fleet.ledger.client)


@pytest.mark.parametrize("write", [write_by_command, write_in_script])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param(full_redis, "is out of memory", id="out of memory"),
        pytest.param(read_only_redis, "does not accept writes: it is a replica", id="replica"),
        pytest.param(redis_without_primary, "rejects commands now.*Link with MASTER is down", id="primary lost"),
        pytest.param(redis_without_replicas, "rejects commands now.*NOREPLICAS", id="replicas lost"),
        pytest.param(unsaved_redis, "rejects commands now.*MISCONF", id="disk of Redis full"),
        pytest.param(redis_without_permission, "does not permit a command", id="permission missing"),
    ],
)
def test_temporary_refusal_is_service_unreachable(
    fleet: Fleet, fault: Callable[[Fleet], AbstractContextManager[None]], words: str, write: Callable[[Fleet], None]
) -> None:
    fleet.ledger.open_run(make_plan(), "tiny")
    with fault(fleet), pytest.raises(ServiceUnreachable, match=words) as caught, reaching_redis(fleet.settings):
        write(fleet)
    assert caught.value.exit_code == UNREACHABLE
    write(fleet)


@pytest.mark.parametrize("reason", ["certificate has expired", "certificate is not yet valid"])
def test_certificate_outside_validity_is_service_unreachable(redis_url: str, reason: str) -> None:
    settings = Settings(redis_url=redis_url)
    refused = redis.ConnectionError(f"Error 1: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {reason} (_ssl.c:1006)")
    with pytest.raises(ServiceUnreachable, match=f"out of date.*{reason}.*clock"), reaching_redis(settings):
        raise refused


def test_certificate_of_unknown_authority_is_config_error(redis_url: str) -> None:
    refused = redis.ConnectionError("Error 1: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate")
    with pytest.raises(ConfigError, match="cannot be verified"), reaching_redis(Settings(redis_url=redis_url)):
        raise refused


def test_command_error_is_not_converted(redis_url: str) -> None:
    settings = Settings(redis_url=redis_url)
    with connect_redis(settings) as client:
        client.set("key", "value")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"), reaching_redis(settings):
            client.lpush("key", "value")


def test_unresolvable_host_name_is_service_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(ServiceUnreachable, match=r"Redis at redis\.example:6379/0 does not answer.*FLEET_REDIS_URL is correct"):
        connect_redis(Settings(redis_url="redis://redis.example:6379/0"), patience_s=0)
