"""Wait at a worker's start for a service that cannot be used now: unreachable, full, read-only or not mounted yet."""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from common.errors import TransientError
from common.storage.store import Store, open_store

log = structlog.get_logger()

Service = TypeVar("Service")


def wait_for_service(connect: Callable[[], Service], on_trouble: Callable[[str], object], *, pause_s: float) -> Service:
    """Return what ``connect`` returns, once it does not raise a ``TransientError``.

    Try again every ``pause_s`` seconds after such an error, and call ``on_trouble`` with its message each time. Raises
    ``ConfigError`` for a fault that does not pass.
    """
    while True:
        try:
            return connect()
        except TransientError as error:
            log.warning("service.awaited", error=str(error), retry_in_s=pause_s)
            on_trouble(str(error))
            time.sleep(pause_s)


def open_usable_store(url: str) -> Store:
    """Return the store at ``url``, to which an object could be written. A missing folder is not created."""
    store = open_store(url, create=False)
    store.probe()
    return store
