"""Run a command so that an error ends it with a message and an exit code instead of a traceback."""

import sys
from collections.abc import Callable
from io import StringIO
from typing import NoReturn

import click

from common.errors import FleetError
from common.exit_codes import INTERRUPTED, USER_MUST_ACT
from common.program import INTERRUPT_MESSAGE


def run_command(name: str, command: Callable[..., object]) -> NoReturn:
    """Run a click command, and raise ``SystemExit`` at its end.

    The exit code is what the command returns, or the ``exit_code`` of the error that ends it (``common.exit_codes``).
    """
    try:
        code = command(prog_name=name, standalone_mode=False)
    except (KeyboardInterrupt, click.exceptions.Abort):  # click raises Abort for KeyboardInterrupt
        click.echo(INTERRUPT_MESSAGE, err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        from common.redaction import mask_text  # imported here: `--help` does not need it

        shown = StringIO()
        error.show(shown)
        click.echo(mask_text(shown.getvalue()), err=True, nl=False)  # it can quote an argument or the name of a file
        sys.exit(USER_MUST_ACT)
    except FleetError as error:
        from common.redaction import mask_text  # as above

        click.echo(mask_text(f"{name}: {error}"), err=True)
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)
