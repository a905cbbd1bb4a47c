"""The ``workers`` command.  Each subcommand imports what it needs, so that ``--help`` answers at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from common.commands import run_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.settings import Settings
    from workers.supervisor.placement import Assignment

_GPUS_HELP = (
    "none, all, or numbers such as 0, 0-3 or 0,1+2,3: one worker for each, 1+2 is one on two GPUs; all is one for each GPU, or for "
    "each group of as many as the profile asks for."
)
_MODEL_HELP = "A model profile, by name or by path. Again, with a --gpus of its own, for another model."

gpus_option = click.option("--gpus", multiple=True, help=f"{_GPUS_HELP}  [default: all]")
replicas_option = click.option(
    "--replicas", type=click.IntRange(1, 64), default=1, show_default=True, help="Workers on each slot; they divide its memory."
)


@click.group()
def cli() -> None:
    """GPU-pinned workers that run the fleet's chunks."""


@cli.command()
@click.option("--model", "models", multiple=True, required=True, help=_MODEL_HELP)
@gpus_option
@replicas_option
def start(models: tuple[str, ...], gpus: tuple[str, ...], replicas: int) -> int:
    """Start and supervise one worker for each GPU, or group of GPUs.

    Engine options that the profile leaves open are chosen by free GPU memory.  SIGTERM, Ctrl+C, SIGUSR1 or a closed terminal
    drain the workers; a second Ctrl+C kills.
    """
    import structlog

    from common.digests import name_node
    from workers.media.files import find_access
    from workers.supervisor.launcher import Launcher
    from workers.supervisor.placement import assign_slots, pair_models

    log = structlog.get_logger()
    settings = _prepare()
    find_access(settings, [])  # a mistake in FLEET_MEDIA_ROOTS is reported now instead of by every chunk
    assignments = assign_slots(pair_models(models, gpus), replicas=replicas)
    launcher = Launcher(assignments, settings)
    _claim_names(settings, assignments)
    for one in assignments:
        if one.slot.devices or one.preset.choices:
            log.info("engine options chosen", worker=f"{one.slot.name}@{name_node()}", by=str(one.preset))
    return launcher.run()


@cli.command()
@click.option("--model", "models", multiple=True, help=_MODEL_HELP)
@gpus_option
@replicas_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def check(models: tuple[str, ...], gpus: tuple[str, ...], replicas: int, as_json: bool) -> int:
    """Tell whether this node can run.

    Looks at Redis, store, GPUs, versions, disks and clock, and with --model at its weights and engine.  Exit code 0 if it can,
    2 if something must be changed, 3 if a service does not answer.
    """
    from rich.console import Console

    from workers.doctor.finding import find_exit_code
    from workers.doctor.node import check_node
    from workers.doctor.report import print_findings, to_json
    from workers.supervisor.placement import pair_models

    settings = _prepare()
    asked: list[tuple[str | None, str | None]] = [(None, one) for one in gpus] or [(None, None)]
    if models:
        asked = [*pair_models(models, gpus)]
    findings = check_node(asked, settings, replicas=replicas)
    click.echo(to_json(findings)) if as_json else print_findings(findings, Console())
    return find_exit_code(findings)


def _prepare() -> Settings:
    from common.logging import configure_log
    from common.settings import get_settings

    settings = get_settings()
    configure_log(settings.log_level, as_json=settings.log_json)
    return settings


def _claim_names(settings: Settings, assignments: Sequence[Assignment]) -> None:
    from common.digests import name_node
    from common.ledger.connection import connect_redis
    from workers.supervisor.notices import withdraw_notices
    from workers.supervisor.worker_names import await_free_names

    with connect_redis(settings) as client:
        names = [f"{one.slot.name}@{name_node()}" for one in assignments]
        await_free_names(client, names, patience_s=settings.lease_s)
        for model in {one.model for one in assignments}:
            withdraw_notices(client, model, [one.slot.name for one in assignments if one.model == model])


def main() -> None:
    run_command("workers", cli)
