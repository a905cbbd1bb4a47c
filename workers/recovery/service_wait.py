"""Wait at a worker's start for a service that cannot be used now: unreachable, full, read-only or not mounted yet."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from common.errors import TransientError
from common.storage.store import Store, open_store

log = structlog.get_logger()

Service = TypeVar("Service")

_LONGEST_PAUSE_S = 10.0


def wait_for_service(connect: Callable[[], Service], on_trouble: Callable[[str], object], *, pause_s: float) -> Service:
    """Call ``connect`` until it does not raise a ``TransientError``, and return its result.

    The pause between two calls begins at ``pause_s`` and doubles, up to 10 s. Each pause is shortened at random by up to a half,
    so that workers do not call at the same time. Call ``on_trouble`` with the message of each error. Raises
    ``ConfigError`` for a fault that the user must correct.
    """
    while True:
        try:
            return connect()
        except TransientError as error:
            wait_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311  # not for security
            log.warning("service.awaited", error=str(error), retry_in_s=round(wait_s, 1))
            on_trouble(str(error))
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def open_usable_store(url: str) -> Store:
    """Return the store at ``url`` after a successful test write. It does not create a missing folder."""
    store = open_store(url, create=False)
    store.probe()
    return store
