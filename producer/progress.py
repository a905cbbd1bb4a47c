"""Show the progress of a stream of unknown length.

On a terminal, show a spinner with the count and the rate. Elsewhere, print a line every ten seconds.
"""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.status import Status

Element = TypeVar("Element")

_LINE_S = 10.0
_LOOK_EVERY = 256


def show_progress(stream: Iterable[Element], doing: str) -> Iterator[Element]:
    """Yield a stream of rows unchanged and print its progress to standard error.

    If standard error is not a terminal, do not print the progress of short streams.
    """
    console = Console(stderr=True)
    live = Status(doing, console=console) if console.is_terminal else None
    begun_at = shown_at = time.monotonic()
    if live:
        live.start()
    try:
        for count, element in enumerate(stream, 1):
            yield element
            if count % _LOOK_EVERY:
                continue
            now = time.monotonic()
            text = f"{doing}: {count:,} ({count / max(now - begun_at, 1e-3):,.0f} rows/s)"
            if live:
                live.update(text)
            elif now - shown_at >= _LINE_S:
                console.print(text, highlight=False)
                shown_at = now
    finally:
        if live:
            live.stop()
