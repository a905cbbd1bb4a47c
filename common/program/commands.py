"""The start and the end of a command's process, with exit codes and messages instead of tracebacks.

This module imports only small modules, so that ``--help`` is fast.
"""

import atexit
import importlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from typing import NoReturn

from common.errors import FleetError
from common.exit_codes import INTERRUPTED, NOT_ALL_OK, USER_MUST_ACT
from common.program.interrupts import INTERRUPT_MESSAGE, ignore_interrupts, print_interrupt, recover_interrupts, run_interruptible

_MOST_TRACEBACK = 16_000  # characters, as in the log


def run_program(name: str, module: str) -> NoReturn:
    """Run the click command ``cli`` of ``module`` as the program ``name``, and end the process with its exit code."""
    code = NOT_ALL_OK
    try:
        run_interruptible(lambda: run_command(name, lambda **given: importlib.import_module(module).cli(**given)))
    except SystemExit as end:
        code = _read_code(end)
    except KeyboardInterrupt:
        print_interrupt()
        code = INTERRUPTED
    except BaseException:  # noqa: BLE001  # the interpreter does the same with an uncaught exception
        _print_traceback()
    end_process(code)


def run_command(name: str, command: Callable[..., object]) -> NoReturn:
    """Run a click command, and raise ``SystemExit`` at its end.

    The exit code is the command's return value, or the ``exit_code`` of the error that ends it (``common.exit_codes``).
    """
    import click  # imported here: worker processes import this module for ``end_process`` only

    try:
        with recover_interrupts():
            code = command(prog_name=name, standalone_mode=False)
    except (KeyboardInterrupt, click.exceptions.Abort):  # click raises Abort for KeyboardInterrupt
        with suppress(OSError):  # Ctrl+C has also ended the reader of a pipe
            click.echo(INTERRUPT_MESSAGE, err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        from common.redaction import mask_text  # imported here: `--help` does not need it

        shown = StringIO()
        error.show(shown)
        click.echo(mask_text(shown.getvalue()), err=True, nl=False)  # the message can quote an argument or a file name
        sys.exit(USER_MUST_ACT)
    except FleetError as error:
        from common.redaction import mask_text  # as above

        click.echo(mask_text(f"{name}: {error}"), err=True)
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def end_process(code: int) -> NoReturn:
    """End the process without the interpreter's teardown. The exit code is 1 instead of 0 if its output could not be written.

    Threads of native libraries (Arrow, object storage) may still run. If they end during the interpreter's teardown, they can
    abort the process: ``terminate called without an active exception``.
    """
    ignore_interrupts()
    atexit._run_exitfuncs()  # noqa: SLF001  # there is no public name
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, ValueError, AttributeError):  # the reader of a pipe has exited, or the stream is closed
            pass
        except OSError as error:
            code = code or NOT_ALL_OK
            with suppress(OSError):
                os.write(2, f"the output could not be written: {error.strerror}\n".encode())
    os._exit(code)


def _read_code(end: SystemExit) -> int:
    """Return the exit code as the interpreter does: print a text, and return 1 for it."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    from common.redaction import mask_text  # as above

    sys.stderr.write(mask_text(f"{end.code}\n"))
    return NOT_ALL_OK


def _print_traceback() -> None:
    """Print the traceback of an unexpected exception. Its message can contain a secret, so secrets are masked."""
    import traceback  # imported here: few commands need it

    from common.redaction import mask_text  # as above

    sys.stderr.write(mask_text(traceback.format_exc(), most=_MOST_TRACEBACK))
