"""Workers' names: who has one has it alone, or two would speak for each other in the list of workers."""

import os
import time
from collections.abc import Collection

import redis

from common.errors import ConfigError
from common.ledger.worker_registry import WorkerRecord, list_workers

_POLL_S = 0.2


def await_free_names(client: redis.Redis, names: Collection[str], *, patience_s: float) -> None:
    """Return once no other worker that is to stay has one of these names.

    One whose launcher has died a moment ago soon drains, and then does not count.  Raises ``ConfigError`` for one that still
    works after ``patience_s``.
    """
    ends_at = time.monotonic() + patience_s
    while taken := next((one for one in list_workers(client) if one.worker in names and _is_to_stay(one)), None):
        if time.monotonic() >= ends_at:
            raise ConfigError(
                f"--gpus: {taken.worker} is there already: process {taken.pid} runs {taken.model} on it. Name other GPUs, end that "
                "launcher first, or start it with --replicas for several workers on a GPU"
            )
        time.sleep(_POLL_S)


def _is_to_stay(presence: WorkerRecord) -> bool:
    """Return whether a worker of this machine works on; what one that was killed had said last stays for a while."""
    if presence.state not in ("loading", "ready"):
        return False
    try:
        os.kill(presence.pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # somebody else's process
    return True
