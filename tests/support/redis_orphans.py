"""The demo's Redis servers after their parent was killed, and short queries to a server."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producer.demo import redis_server as embedded_redis
from producer.demo.redis_server import RedisServer

START_AND_DIE = """
import os, signal, sys
from pathlib import Path
from producer.demo.redis_server import start_redis
server = start_redis(Path(sys.argv[1]))
print(server.pid, server.url, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """Yield the process id and the URL of a server in ``tmp_path`` whose parent was killed."""
    parent = subprocess.run([sys.executable, "-c", START_AND_DIE, tmp_path], capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    pid, url = parent.stdout.split()
    yield int(pid), url
    if embedded_redis._ask_pid(url) == int(pid):  # noqa: SLF001  # only a failed test leaves it running
        os.kill(int(pid), signal.SIGKILL)


def answers(url: str) -> bool:
    return embedded_redis._ask_pid(url) is not None  # noqa: SLF001  # a short query that never raises


def set_key(server: RedisServer, key: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set(key, "here")


def has_key(server: RedisServer, key: str) -> bool:
    with redis.Redis.from_url(server.url) as client:
        return bool(client.exists(key))
