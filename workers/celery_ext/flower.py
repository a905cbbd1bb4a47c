"""Flower made safe by default: it asks for a password, listens on loopback alone, and can change nothing.

``celery -A workers.app flower`` imports ``workers.app`` before it reads its options, and sends ``import_modules`` after that.
Whatever is given by ``FLOWER_*``, on the command line or in ``flowerconfig.py`` wins over what is set here.
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

# Until somebody chooses another: nobody knows it, so that Flower stays shut should the check below ever not be called.
_PASSWORD = secrets.token_urlsafe(18)
_GENERATED = [f"fleet:{_PASSWORD}"]


def guard_flower() -> None:
    """Set Flower's defaults if this process is ``celery ... flower``; in any other nothing happens."""
    context = click.get_current_context(silent=True)
    if context is None or context.invoked_subcommand != "flower":
        return
    options = _get_options()
    options.address = "127.0.0.1"
    options.read_only = True
    options.basic_auth = _GENERATED
    options.tasks_columns = "args,state,result,received,runtime,worker"
    options.format_task = _put_chunk_first
    import_modules.connect(_check_options, weak=False)


def _check_options(**_: Any) -> None:
    """Refuse to start without credentials; on a terminal, make some up instead and show them once."""
    settings = get_settings()
    configure_log(settings.log_level, as_json=settings.log_json)  # Flower's own would not mask secrets
    options = _get_options()
    if options.auth:  # OAuth: Flower would ask for both
        options.basic_auth = None
    elif options.basic_auth == _GENERATED:
        if not sys.stderr.isatty():
            _refuse("Flower needs credentials: set FLOWER_BASIC_AUTH=user:password")
        click.echo(f"Flower: user fleet, password {_PASSWORD}, for this start alone (or set FLOWER_BASIC_AUTH)", err=True)
    elif not all(all(entry.partition(":")) for entry in options.basic_auth or [""]):
        _refuse("FLOWER_BASIC_AUTH: expected user:password, several of them with commas between")
    if not _is_loopback(options.address) and not options.certfile and not options.unix_socket:
        log.warning(
            "Flower can be reached from other machines, and its password goes there in the clear; give --certfile and --keyfile"
        )


def _put_chunk_first(task: Any) -> Any:
    """Return a task as the table shows it: that cuts all but some 48 characters of ``model · run · chunk n · m samples``."""
    named = (task.args or "").split(" · ")
    if task.name == TASK_NAME and len(named) > 2:
        task.args = " · ".join([*named[2:], named[1]])
    return task


def _refuse(message: str) -> NoReturn:
    click.echo(f"flower: {message}", err=True)
    raise SystemExit(USER_MUST_ACT)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # a name; the empty one means all addresses
        return address == "localhost"


def _get_options() -> Any:
    from tornado.options import options  # comes with Flower, which workers do without

    return options
