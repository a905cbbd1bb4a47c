"""What this process keeps of the memory that images took."""

import ctypes
import os
from contextlib import suppress

# Images are larger, nearly all else is smaller; glibc takes at most 32 MiB here.
THRESHOLD_BYTES = 4 * 2**20

_M_MMAP_THRESHOLD = -3  # malloc.h
_VARIABLE, _TUNABLE = "MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold"


def return_freed_images() -> None:
    """Have freed blocks of ``THRESHOLD_BYTES`` or more go back to the system at once, unless the user's environment says how.

    By default glibc raises its own threshold to the largest block that was freed, up to 32 MiB, and the threads' heaps keep up
    to as much again as the budget of media.  For this process alone and not through its environment: a process that it starts
    for its engine makes tensors of this size all the time, and mapping each anew cost vLLM 30 % more CPU a sample.
    """
    if _VARIABLE in os.environ or _TUNABLE in os.environ.get("GLIBC_TUNABLES", ""):
        return
    with suppress(OSError, AttributeError):  # macOS, musl
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, THRESHOLD_BYTES)
