"""The ``workers`` command."""

import sys

import click

from common.errors import ConfigError, FleetError, ServiceUnreachable
from common.ledger import connect_redis
from common.log import configure_log
from common.settings import get_settings
from workers.launcher import Launcher, parse_gpus


@click.group()
def cli() -> None:
    """GPU-pinned workers that run the fleet's chunks."""


@cli.command()
@click.option("--model", "profile", required=True, help="A model profile, by name or by path.")
@click.option("--gpus", default="all", show_default=True, help="none, all, or numbers such as 0 or 0,1: one worker for each.")
def start(profile: str, gpus: str) -> None:
    """Start and supervise one worker for each GPU, until SIGTERM or Ctrl+C drains them."""
    settings = get_settings()
    configure_log(settings.log_level, as_json=settings.log_json)
    slots = parse_gpus(gpus)
    connect_redis(settings).close()
    raise SystemExit(Launcher(profile, slots, settings).run())


def main() -> None:
    """Run the command; an error that speaks to a person ends it with its exit code and no traceback."""
    try:
        cli()
    except FleetError as error:
        click.echo(f"workers: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 3 if isinstance(error, ServiceUnreachable) else 1)
