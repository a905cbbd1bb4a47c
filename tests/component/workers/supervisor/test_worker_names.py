"""Worker names are unique: a launcher waits until a stale name expires, or reports the worker that uses the name."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import redis

from common.errors import ConfigError
from common.ledger.worker_registry import WorkerRecord, WorkerState, announce_worker
from workers.supervisor.worker_names import await_free_names

NAME = "gpu0@here"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def announce(client: redis.Redis, *, pid: int, state: WorkerState = "ready", ttl_s: float = 60) -> None:
    announce_worker(client, WorkerRecord(worker=NAME, model="other", device="gpu0", pid=pid, state=state), ttl_s=ttl_s)


def find_dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("state", ["loading", "ready"])
def test_name_of_running_worker_is_rejected(client: redis.Redis, state: WorkerState) -> None:
    announce(client, pid=os.getpid(), state=state)
    with pytest.raises(ConfigError, match=rf"{NAME} is already running: process {os.getpid()} with model other"):
        await_free_names(client, ["gpu1@here", NAME], patience_s=0)
    await_free_names(client, ["gpu1@here"], patience_s=0)


@pytest.mark.parametrize("state", ["draining", "stopped"])
def test_name_of_ending_worker_is_available(client: redis.Redis, state: WorkerState) -> None:
    announce(client, pid=os.getpid(), state=state)
    await_free_names(client, [NAME], patience_s=0)


def test_killed_worker_does_not_block_its_name(client: redis.Redis) -> None:
    announce(client, pid=find_dead_pid())
    await_free_names(client, [NAME], patience_s=0)


def test_launcher_waits_until_stale_name_expires(client: redis.Redis) -> None:
    announce(client, pid=os.getpid(), ttl_s=0.5)
    await_free_names(client, [NAME], patience_s=60)
