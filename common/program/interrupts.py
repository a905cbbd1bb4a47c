"""Handle Ctrl+C and SIGTERM, which can end a command at any moment.

Inside the command they raise ``KeyboardInterrupt``, so that the command can clean up. At other times they end the process.

Libraries can lose an interrupt. An exception cannot leave a destructor or a callback, and a bare ``except`` catches it. Native
code can replace it with another error. Python does not run signal handlers while native code blocks. So a thread checks that each
interrupt takes effect, and a command that received an interrupt exits with code 130.

A program calls ``handle_interrupts`` before its other imports, so this module imports only a few small modules.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

from common.exit_codes import INTERRUPTED

INTERRUPT_MESSAGE = "interrupted; nothing is lost, run the same command again"

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOK_S = 0.05
_LOST_AFTER_S = 0.5
_STUCK_AFTER_S = 2.0
_HELD_FOR_S = 60.0


def handle_interrupts() -> None:
    """Handle both signals until this process ends. A signal that the parent process has set to be ignored stays ignored."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _hide_interrupts
    sys.excepthook = _hide_printed_interrupts
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, threading.get_ident()), name="interrupts", daemon=True).start()


def ignore_interrupts() -> None:
    """Ignore both signals from now on, because the process is about to end."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def run_interruptible(command: Callable[[], object]) -> None:
    """Run ``command``. An interrupt raises ``KeyboardInterrupt`` only while it runs."""
    with recover_interrupts():
        command()


@contextmanager
def recover_interrupts() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` at the end of this block if an interrupt has arrived, even if the block returns or fails.

    ``SystemExit`` leaves the block unchanged, because it already has the exit code.
    """
    try:
        yield
    finally:
        if _arrived and not isinstance(sys.exception(), SystemExit):
            raise KeyboardInterrupt


@contextmanager
def hold_interrupts(*, held: bool = True) -> Iterator[None]:
    """Defer an interrupt that arrives in this block to the end of the block, for 60 s at most. Then the process ends.

    An inner block with ``held=False`` can be interrupted. So a resource is opened and closed completely, and its use can be
    interrupted: ``with hold_interrupts(), start_redis(folder) as server, hold_interrupts(held=False): ...``
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
    """Print the message to standard error without Python's buffers: the interrupted code may hold their lock."""
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
    _held.clear()
    raise KeyboardInterrupt


def _watch(pipe: int, main_thread: int) -> None:
    """Send each interrupt again every 0.5 s until the process ends, but not while the main thread cleans up.

    A lost interrupt cannot be detected in another way. End the process if the main thread is blocked in native code.
    """
    while received := os.read(pipe, 1):
        number, received_at = received[0], time.monotonic()
        if signal.getsignal(number) is not _interrupt:  # the launcher of workers installs other handlers
            continue
        while not _taken:
            if time.monotonic() - received_at > (_HELD_FOR_S if any(_holding) else _STUCK_AFTER_S):
                _exit()
            time.sleep(_LOOK_S)
        _taken.clear()
        seen_at = time.monotonic()
        while time.monotonic() - seen_at < _LOST_AFTER_S:
            time.sleep(_LOOK_S)
            if any(_holding) and time.monotonic() - received_at > _HELD_FOR_S:
                _exit()
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
    """Do not print the traceback of an interrupt in a destructor or a callback. ``_watch`` resends the interrupt."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def _hide_printed_interrupts(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Do not print the traceback of an interrupt that native code catches and prints, for example inside an import."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


def _exit() -> None:
    print_interrupt()
    os._exit(INTERRUPTED)


_arrived: list[int] = []  # all signals whose handler has run
_taken: list[int] = []  # signals that ``_watch`` has not read yet
_held: list[int] = []  # signals that ``hold_interrupts`` has deferred
_holding: list[bool] = []  # ``held`` of the innermost ``hold_interrupts``; empty outside such a block
