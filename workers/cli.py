"""The ``workers`` command."""

import click

from common.command import run_command
from common.ledger import connect_redis
from common.log import configure_log
from common.settings import get_settings
from workers.launcher import Launcher, parse_gpus
from workers.media_files import find_access
from workers.restarts import withdraw_notices


@click.group()
def cli() -> None:
    """GPU-pinned workers that run the fleet's chunks."""


@cli.command()
@click.option("--model", "profile", required=True, help="A model profile, by name or by path.")
@click.option("--gpus", default="all", show_default=True, help="none, all, or numbers such as 0 or 0,1: one worker for each.")
def start(profile: str, gpus: str) -> int:
    """Start and supervise one worker for each GPU.

    SIGTERM, Ctrl+C, SIGUSR1 or a closed terminal drain them; a second Ctrl+C kills.
    """
    settings = get_settings()
    configure_log(settings.log_level, as_json=settings.log_json)
    slots = parse_gpus(gpus)
    find_access(settings, [])  # a mistake in FLEET_MEDIA_ROOTS is better told now than by every chunk
    launcher = Launcher(profile, slots, settings)
    with connect_redis(settings) as client:
        withdraw_notices(client, launcher.model, [slot.name for slot in slots])
    return launcher.run()


def main() -> None:
    run_command("workers", cli)
