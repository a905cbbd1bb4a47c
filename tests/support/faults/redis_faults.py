"""What a Redis can do to a fleet besides dying: be full, be slow, hang up on everyone."""

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
    """Write the profile of an echo engine that notes what it is asked."""
    options = {"asked": str(fleet.folder / "asked"), **options}
    fleet.write_profile(RECORDING, engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)


def wait_for_parts(fleet: Fleet, run_id: str, count: int) -> None:
    wait_until(lambda: len(list(fleet.store.list_keys(parts_prefix(run_id)))) >= count, f"{count} parts")


@contextmanager
def full_redis(fleet: Fleet) -> Iterator[None]:
    """Let Redis refuse, inside the block, every command that could take memory (``maxmemory``, ``noeviction``)."""
    client = fleet.ledger.client
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


@contextmanager
def hanging_redis(fleet: Fleet) -> Iterator[None]:
    """Let Redis answer nothing inside the block, its connections open, as when its machine swaps."""
    os.kill(fleet.server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(fleet.server.pid, signal.SIGCONT)


def cut_connections(fleet: Fleet) -> int:
    """Let Redis hang up on everyone else; return on how many."""
    cut: Any = fleet.ledger.client.client_kill_filter(_type="normal", skipme=True)
    return int(cut)


@contextmanager
def read_only_redis(fleet: Fleet) -> Iterator[None]:
    """Make Redis a replica inside the block, of a primary that is not there, and promote it again: a failover."""
    client = fleet.ledger.client
    client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")
