"""Faults of a running Redis: it is full, it hangs, it closes connections, it is read-only."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    """Make Redis refuse every command that could take memory (``maxmemory``, ``noeviction``) inside the block."""
    client = fleet.ledger.client
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


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
