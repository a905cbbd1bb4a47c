"""Wait at a worker's start for a store that cannot be used now: unreachable, full, read-only or not mounted yet."""

import time
from collections.abc import Callable

import structlog

from common.errors import TransientError
from common.storage.store import Store, open_store

log = structlog.get_logger()


def wait_for_store(url: str, on_trouble: Callable[[str], object], *, pause_s: float) -> Store:
    """Return the store at ``url`` once an object can be written and read.

    Try again every ``pause_s`` seconds after a fault that can pass, and call ``on_trouble`` with its message each time.  Raises
    ``ConfigError`` for a fault that does not pass.
    """
    while True:
        try:
            store = open_store(url, create=False)
            store.probe()
        except TransientError as error:
            log.warning("store.awaited", error=str(error), retry_in_s=pause_s)
            on_trouble(str(error))
            time.sleep(pause_s)
        else:
            return store
