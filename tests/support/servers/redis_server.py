"""A real Redis for tests: one server for the session, emptied for each test."""

from collections.abc import Iterator

import pytest
import redis

from producer.demo.redis_server import RedisServer, start_redis


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Yield the session's server. A test that kills or restarts a server must start its own: ``start_redis(tmp_path)``."""
    with start_redis(tmp_path_factory.mktemp("redis"), append_only=False) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Return the URL of an empty server."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url
