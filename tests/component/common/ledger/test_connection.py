"""The connection to Redis survives what redis-py does not retry."""

import pytest
import redis

from common.errors import ServiceUnreachable
from common.ledger.connection import connect_redis
from common.settings import Settings


def cut_handshakes(monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Let Redis close the next ``count`` connections during their handshake.  Return a list that records each."""
    handshake, cut = redis.Connection.on_connect_check_health, list[int]()

    def cut_or_shake(connection: redis.Connection, check_health: bool = True) -> None:
        if len(cut) < count:
            cut.append(1)
            raise redis.ConnectionError("Connection closed by server.")
        handshake(connection, check_health=check_health)

    monkeypatch.setattr(redis.Connection, "on_connect_check_health", cut_or_shake)
    return cut


def test_cut_handshake_is_retried(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = cut_handshakes(monkeypatch, 3)
    with connect_redis(Settings(redis_url=redis_url), patience_s=0) as client:
        assert client.set("key", "value")
    assert len(cut) == 3


def test_handshake_that_never_succeeds_is_reported(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_handshakes(monkeypatch, 10**9)
    with pytest.raises(ServiceUnreachable, match="does not answer"):
        connect_redis(Settings(redis_url=redis_url), patience_s=0)
