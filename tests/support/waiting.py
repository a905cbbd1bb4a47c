"""Wait for conditions. Tests do not sleep for a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

_POLL_S = 0.02


def wait_until(condition: Callable[[], Value | None], what: str, *, deadline_s: float = 60.0) -> Value:
    """Return the first true value of ``condition``; fail with the text ``what`` once the deadline has passed."""
    ends_at = time.monotonic() + deadline_s
    while time.monotonic() < ends_at:
        if value := condition():
            return value
        time.sleep(_POLL_S)
    raise AssertionError(f"waited {deadline_s:.0f} s without success for: {what}")
