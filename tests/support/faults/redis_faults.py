"""Faults of a running Redis: out of memory, hangs, closed connections, and refused commands."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from common.storage.keys import parts_prefix
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until

RECORDING = "recording"


def write_recording_profile(fleet: Fleet, **options: Any) -> None:
    """Write the profile of an echo engine that records its requests."""
    options = {"asked": str(fleet.folder / "asked"), **options}
    fleet.write_profile(RECORDING, engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)


def wait_for_parts(fleet: Fleet, run_id: str, count: int) -> None:
    wait_until(lambda: len(list(fleet.store.list_keys(parts_prefix(run_id)))) >= count, f"{count} parts")


@contextmanager
def full_redis(fleet: Fleet) -> Iterator[None]:
    """Make Redis refuse every command that could use memory (``maxmemory``, ``noeviction``) inside the block."""
    client = fleet.ledger.client
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


@contextmanager
def stopped_redis(fleet: Fleet) -> Iterator[None]:
    """Stop Redis inside the block, and start it again with its data and address."""
    fleet.server.kill()
    try:
        yield
    finally:
        fleet.server.restart()


@contextmanager
def hanging_redis(fleet: Fleet) -> Iterator[None]:
    """Stop the Redis process inside the block; its connections stay open, as on a machine that swaps."""
    os.kill(fleet.server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(fleet.server.pid, signal.SIGCONT)


def cut_connections(fleet: Fleet) -> int:
    """Make Redis close all other clients' connections; return their number."""
    cut: Any = fleet.ledger.client.client_kill_filter(_type="normal", skipme=True)
    return int(cut)


@contextmanager
def read_only_redis(fleet: Fleet) -> Iterator[None]:
    """Make Redis a replica of a missing primary inside the block, and promote it again, as in a failover."""
    client = fleet.ledger.client
    client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


@contextmanager
def redis_without_primary(fleet: Fleet) -> Iterator[None]:
    """Make Redis a replica that has lost its primary and refuses to serve old data inside the block."""
    client = fleet.ledger.client
    client.config_set("replica-serve-stale-data", "no")
    with read_only_redis(fleet):
        yield
    client.config_set("replica-serve-stale-data", "yes")


@contextmanager
def redis_without_replicas(fleet: Fleet) -> Iterator[None]:
    """Make Redis wait for a replica that it does not have inside the block (``min-replicas-to-write``)."""
    client = fleet.ledger.client
    client.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        client.config_set("min-replicas-to-write", 0)


@contextmanager
def unsaved_redis(fleet: Fleet) -> Iterator[None]:
    """Make Redis unable to write its file inside the block, as with a full disk; it then refuses all writes."""
    client = fleet.ledger.client
    settings: Any = client.config_get()
    folder = Path(settings["dir"]) / settings["dbfilename"]
    folder.unlink(missing_ok=True)
    (folder / "in the way").mkdir(parents=True)
    client.config_set("save", "3600 1")
    _save_in_background(client, "err")
    try:
        yield
    finally:
        (folder / "in the way").rmdir()
        folder.rmdir()
        _save_in_background(client, "ok")
        client.config_set("save", settings["save"])


@contextmanager
def redis_without_permission(fleet: Fleet) -> Iterator[None]:
    """Forbid every write to the user of ``FLEET_REDIS_URL`` inside the block."""
    client = fleet.ledger.client
    client.acl_setuser("default", enabled=True, categories=["+@all", "-@write"])
    try:
        yield
    finally:
        client.acl_setuser("default", enabled=True, categories=["+@all"])


def _save_in_background(client: redis.Redis, expected: str) -> None:
    def read(name: str) -> str:
        info: Any = client.info("persistence")
        return str(info[name])

    wait_until(lambda: read("rdb_bgsave_in_progress") == "0", "the end of another save")
    client.bgsave()
    wait_until(lambda: read("rdb_bgsave_in_progress") == "0" and read("rdb_last_bgsave_status") == expected, f"a save: {expected}")
