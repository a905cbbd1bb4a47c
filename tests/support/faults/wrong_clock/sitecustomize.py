"""Shift ``time.time`` by ``WRONG_CLOCK_S`` seconds. Python imports this module at start if its folder is on the path.

Several numbers, for example ``0,7200,-7200``, make the clock jump: each applies for 0.2 s. ``time.monotonic`` stays correct.
"""

import os
import time

_JUMP_S = 0.2

_offsets_s = [int(text) for text in os.environ["WRONG_CLOCK_S"].split(",")]
_time, _time_ns = time.time, time.time_ns


def _find_offset_s() -> int:
    return _offsets_s[int(time.monotonic() / _JUMP_S) % len(_offsets_s)]


time.time = lambda: _time() + _find_offset_s()
time.time_ns = lambda: _time_ns() + _find_offset_s() * 1_000_000_000
