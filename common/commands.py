"""What both commands share: exit codes, and errors that end a command with words instead of a traceback."""

import sys
from collections.abc import Callable

import click

from common.errors import ConfigError, FleetError, ServiceUnreachable
from common.redaction import mask_text
from common.storage.store import StoreFull

NOT_ALL_OK = 1
USER_MUST_ACT = 2
UNREACHABLE = 3
INTERRUPTED = 130


def run_command(name: str, command: Callable[..., object]) -> None:
    """Run a click command to the end of the process.

    Exit codes: 0 done, 1 samples are not ``ok`` or something failed, 2 the user must change something, 3 a service is
    unreachable, 130 interrupted.
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
        click.echo(mask_text(f"{name}: {error}"), err=True)
        sys.exit(_exit_code(error))
    sys.exit(code if isinstance(code, int) else 0)


def _exit_code(error: FleetError) -> int:
    if isinstance(error, ConfigError | StoreFull):
        return USER_MUST_ACT
    return UNREACHABLE if isinstance(error, ServiceUnreachable) else NOT_ALL_OK
