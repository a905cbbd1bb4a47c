"""Set safe defaults for Flower: it requires a password, listens on loopback only, and is read-only.

``celery -A workers.app flower`` imports ``workers.app`` before it reads its options, and sends the ``import_modules`` signal
after it has read them. So ``FLOWER_*`` variables, the command line and ``flowerconfig.py`` override these defaults.
"""

import ipaddress
import secrets
import sys
from typing import Any, NoReturn

import click
import structlog
from celery.signals import import_modules

from common.broker.app import TASK_NAME
from common.exit_codes import USER_MUST_ACT
from common.logging import configure_log
from common.settings import get_settings

log = structlog.get_logger()

# The default password. It is random and secret, so that Flower rejects all requests even if _check_options does not run.
_PASSWORD = secrets.token_urlsafe(18)
_GENERATED = [f"fleet:{_PASSWORD}"]


def guard_flower() -> None:
    """Set Flower's defaults if this process is ``celery ... flower``. Do nothing in any other process."""
    context = click.get_current_context(silent=True)
    if context is None or context.invoked_subcommand != "flower":
        return
    options = _get_options()
    options.address = "127.0.0.1"
    options.read_only = True
    options.basic_auth = _GENERATED
    options.tasks_columns = "args,state,result,received,runtime,worker"
    options.format_task = _format_task
    import_modules.connect(_check_options, weak=False)


def _check_options(**_: Any) -> None:
    """Exit if credentials are missing or invalid. On a terminal, generate and print missing credentials instead.

    Warn if Flower listens on a network address without TLS.
    """
    settings = get_settings()
    configure_log(settings.log_level, as_json=settings.log_json)  # Flower's own log setup does not redact secrets
    options = _get_options()
    if options.auth:  # OAuth is set; if basic_auth were also set, Flower would require both
        options.basic_auth = None
    elif options.basic_auth == _GENERATED:
        if not sys.stderr.isatty():
            _exit_with_error("no credentials: set FLOWER_BASIC_AUTH=user:password")
        click.echo(f"Flower: user fleet, password {_PASSWORD}, valid until Flower exits (or set FLOWER_BASIC_AUTH)", err=True)
    elif not all(all(entry.partition(":")) for entry in options.basic_auth or [""]):
        _exit_with_error("FLOWER_BASIC_AUTH: expected user:password, or several such pairs separated by commas")
    if not _is_loopback(options.address) and not options.certfile and not options.unix_socket:
        log.warning(
            "flower.unencrypted",
            address=options.address or "all addresses",
            hint="other machines can connect and send the password unencrypted; give --certfile and --keyfile",
        )


def _format_task(task: Any) -> Any:
    """Return the task with the chunk first in its arguments.

    The arguments are ``model · run · chunk n · m samples``, and Flower's table truncates them to about 48 characters.
    """
    parts = (task.args or "").split(" · ")
    if task.name == TASK_NAME and len(parts) > 2:
        task.args = " · ".join([*parts[2:], parts[1]])
    return task


def _exit_with_error(message: str) -> NoReturn:
    click.echo(f"flower: {message}", err=True)
    raise SystemExit(USER_MUST_ACT)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # a host name; an empty one means all addresses
        return address == "localhost"


def _get_options() -> Any:
    from tornado.options import options  # installed with Flower, which workers do not need

    return options
