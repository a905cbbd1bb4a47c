"""Keep worker names unique across the fleet.

Two workers with the same name would overwrite each other's entry in the list of workers.
"""

import os
import time
from collections.abc import Collection

import redis

from common.errors import ConfigError
from common.ledger.worker_registry import WorkerRecord, list_workers

_POLL_S = 0.2


def await_free_names(client: redis.Redis, names: Collection[str], *, patience_s: float) -> None:
    """Block until no other running worker has one of these names.

    A worker whose launcher has exited drains soon, and a draining worker does not count. Raises ``ConfigError`` if a
    worker with one of the names still runs after ``patience_s`` seconds.
    """
    ends_at = time.monotonic() + patience_s
    while taken := next((one for one in list_workers(client) if one.worker in names and _is_running(one)), None):
        if time.monotonic() >= ends_at:
            raise ConfigError(
                f"--gpus: worker {taken.worker} is already running: process {taken.pid} with model {taken.model}. Use other GPUs, "
                "stop that launcher first, or start it with --replicas for several workers on a GPU"
            )
        time.sleep(_POLL_S)


def _is_running(record: WorkerRecord) -> bool:
    """Return whether a worker of this machine runs and is not draining.

    The process must also exist, because the record of a killed worker stays in Redis for a while.
    """
    if record.state not in ("loading", "ready"):
        return False
    try:
        os.kill(record.pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # the process exists and belongs to another user
    return True
