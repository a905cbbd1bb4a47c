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
    """Call ``connect`` until it does not raise a ``TransientError``, and return its result.

    Retry every ``pause_s`` seconds. Call ``on_trouble`` with the message of each error. Raises ``ConfigError`` for a fault that
    the user must correct.
    """
    while True:
        try:
            return connect()
        except TransientError as error:
            log.warning("service.awaited", error=str(error), retry_in_s=pause_s)
            on_trouble(str(error))
            time.sleep(pause_s)


def open_usable_store(url: str) -> Store:
    """Return the store at ``url`` after a successful test write. Do not create a missing folder."""
    store = open_store(url, create=False)
    store.probe()
    return store
