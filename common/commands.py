"""What both commands share: an error ends a command with a message and an exit code instead of a traceback."""

import sys
from collections.abc import Callable

import click

from common.errors import FleetError
from common.exit_codes import INTERRUPTED, USER_MUST_ACT


def run_command(name: str, command: Callable[..., object]) -> None:
    """Run a click command to the end of the process.

    The exit code is what the command returns, or the ``exit_code`` of the error that ends it (``common.exit_codes``).
    """
    try:
        code = command(prog_name=name, standalone_mode=False)
    except (KeyboardInterrupt, click.exceptions.Abort):  # click makes the second of the first
        click.echo("interrupted; nothing is lost, the same command goes on", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(USER_MUST_ACT)
    except FleetError as error:
        from common.redaction import mask_text  # reads the settings, which `--help` does not need

        click.echo(mask_text(f"{name}: {error}"), err=True)
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)
