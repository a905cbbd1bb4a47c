"""An engine that describes its images, in a process that obeys file modes even if root started it."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from PIL.Image import Image

from workers.engines.base import Generation, Request
from workers.engines.echo import EchoEngine

# linux/capability.h: version 3, and the two capabilities with which root ignores file modes.
_VERSION = 0x20080522
_DAC = 1 << 1 | 1 << 2


class DescribingEngine(EchoEngine):
    """An engine that answers ``ok``, or the size and the first pixel of each image: ``8x6 #ff0000``."""

    async def start(self) -> None:
        set_root_powers(0)  # for this thread and the threads that it starts: the event loop and the media readers
        await super().start()

    async def generate(self, request: Request) -> Generation:
        answer = await super().generate(request)
        return Generation("; ".join(map(_describe, request.images)) or answer.text, "stop", answer.prompt_tokens, 1)


@contextmanager
def without_root_powers() -> Iterator[None]:
    """Make this thread obey file modes, even if it runs as root."""
    set_root_powers(0)
    try:
        yield
    finally:
        set_root_powers(_DAC)


def set_root_powers(wanted: int) -> None:
    """Set, for this thread, whether root ignores file modes (capset(2)): ``wanted`` is ``_DAC`` or 0."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, held = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if libc.capget(header, held) == 0:
        held[0] = (held[0] & ~_DAC) | (wanted & held[1])
        libc.capset(header, held)


def _describe(image: Image) -> str:
    red, green, blue = image.convert("RGB").getpixel((0, 0))  # type: ignore[misc]  # a pixel of RGB has three values
    return f"{image.width}x{image.height} #{red:02x}{green:02x}{blue:02x}"
