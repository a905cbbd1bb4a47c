"""Ctrl+C and SIGTERM end a command at any moment of its life.

Inside the command they raise ``KeyboardInterrupt``, so that it can clean up.  Before and after it they end the process at once.
Libraries can lose an interrupt: an exception cannot leave a destructor or a callback, a bare ``except`` takes it, native code
replaces it by an error of its own, and Python runs no handler while native code blocks.  So a thread watches what becomes of each
one, and a command in which one arrived ends as interrupted.

A program calls ``handle_interrupts`` before it imports anything else, so this module imports little.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from common.exit_codes import INTERRUPTED

INTERRUPT_MESSAGE = "interrupted; nothing is lost, run the same command again"

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOK_S = 0.05
_LOST_AFTER_S = 0.5
_STUCK_AFTER_S = 2.0


def handle_interrupts() -> None:
    """Handle both signals until the end of this process.  A signal that the parent process made it ignore stays ignored."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _hide_interrupts
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, threading.get_ident()), name="interrupts", daemon=True).start()


def ignore_interrupts() -> None:
    """Ignore both signals from now on: the process ends by itself in a moment."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def run_interruptible(command: Callable[[], object]) -> None:
    """Run ``command``.  While it runs, and only then, an interrupt raises ``KeyboardInterrupt``."""
    with recover_interrupts():
        command()


@contextmanager
def recover_interrupts() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` at the end of this block if an interrupt has arrived, even if the block returns or fails.

    ``SystemExit`` leaves the block unchanged, because the exit code is decided then.
    """
    try:
        yield
    finally:
        if _arrived and not isinstance(sys.exception(), SystemExit):
            raise KeyboardInterrupt


@contextmanager
def hold_interrupts(*, held: bool = True) -> Iterator[None]:
    """Raise an interrupt that arrives in this block at its end, so that the block completes what it begins.

    A block without ``held`` inside it raises interrupts again.  So a resource begins and ends undisturbed, and is used
    interruptibly: ``with hold_interrupts(), start_redis(folder) as server, hold_interrupts(held=False): ...``
    """
    outer = _holding[-1:]
    try:
        _holding[:] = [held]
        _raise_held()
        yield
    finally:
        _holding[:] = outer
        _raise_held()


def print_interrupt() -> None:
    """Print the message to standard error without Python's buffers, which the interrupted code may hold."""
    with suppress(OSError):  # Ctrl+C has also ended the reader of a pipe
        os.write(2, f"{INTERRUPT_MESSAGE}\n".encode())


def _interrupt(number: int, frame: FrameType | None) -> None:
    _taken.append(number)
    _arrived.append(number)
    if any(_holding):
        _held.append(number)
        return
    while frame is not None and frame.f_code is not run_interruptible.__code__:
        frame = frame.f_back
    if frame is None:
        _exit()
    raise KeyboardInterrupt


def _watch(pipe: int, main_thread: int) -> None:
    """Send an interrupt again that the main thread has lost, and end the process if that thread is stuck in native code."""
    while received := os.read(pipe, 1):
        number, received_at = received[0], time.monotonic()
        if signal.getsignal(number) is not _interrupt:  # the launcher of workers has handlers of its own
            continue
        while not _taken:
            if time.monotonic() - received_at > _STUCK_AFTER_S:
                _exit()
            time.sleep(_LOOK_S)
        _taken.clear()
        seen_at = time.monotonic()
        while time.monotonic() - seen_at < _LOST_AFTER_S:
            time.sleep(_LOOK_S)
            if any(_holding) or _is_cleaning_up(main_thread):
                seen_at = time.monotonic()
        signal.pthread_kill(main_thread, number)


def _is_cleaning_up(thread: int) -> bool:
    """Return whether the thread runs an ``except``, ``finally`` or ``__exit__`` of a ``KeyboardInterrupt``."""
    handled: object = sys._current_exceptions().get(thread)  # noqa: SLF001  # documented
    error: object = handled[1] if isinstance(handled, tuple) else handled  # a tuple until Python 3.11
    while isinstance(error, BaseException) and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _raise_held() -> None:
    if _held and not any(_holding):
        _held.clear()
        raise KeyboardInterrupt


def _hide_interrupts(unraisable: "sys.UnraisableHookArgs") -> None:
    """Print no traceback of an interrupt that arrived in a destructor or a callback; ``_watch`` sends it again."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def _exit() -> None:
    print_interrupt()
    os._exit(INTERRUPTED)


_arrived: list[int] = []  # all signals whose handler has run
_taken: list[int] = []  # those that ``_watch`` has not seen yet
_held: list[int] = []  # the signals of the block that holds interrupts
_holding: list[bool] = []  # whether the innermost ``hold_interrupts`` holds them; empty outside of one
