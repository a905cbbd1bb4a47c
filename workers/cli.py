"""The ``workers`` command. Each subcommand imports its modules lazily, so that ``--help`` is fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.settings import Settings
    from workers.supervisor.placement import Assignment

_GPUS_HELP = (
    "none, all, or GPU numbers such as 0, 0-3 or 0,1+2,3. Each number gets one worker; 1+2 is one worker on two GPUs. all starts "
    "one worker for each GPU, or for each group of GPUs if the profile requires groups."
)
_MODEL_HELP = "A model profile, by name or by path. Repeat it, with one --gpus for each, to run several models."

gpus_option = click.option("--gpus", multiple=True, help=f"{_GPUS_HELP}  [default: all]")
replicas_option = click.option(
    "--replicas",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Number of workers on each slot. They share its memory.",
)


@click.group()
def cli() -> None:
    """Run GPU-pinned workers that process the fleet's chunks."""


@cli.command()
@click.option("--model", "models", multiple=True, required=True, help=_MODEL_HELP)
@gpus_option
@replicas_option
def start(models: tuple[str, ...], gpus: tuple[str, ...], replicas: int) -> int:
    """Start and supervise one worker for each GPU, or group of GPUs.

    The launcher chooses the engine options that the profile does not set. They depend on the free GPU memory. SIGTERM, Ctrl+C,
    SIGUSR1 or a closed terminal drain the workers; a second SIGTERM or Ctrl+C kills them.
    """
    import structlog

    from common.digests import name_node
    from workers.media.files import find_access
    from workers.supervisor.launcher import Launcher
    from workers.supervisor.placement import assign_slots, pair_models

    log = structlog.get_logger()
    settings = _prepare()
    find_access(settings, [])  # report a mistake in FLEET_MEDIA_ROOTS now instead of once for every chunk
    assignments = assign_slots(pair_models(models, gpus), replicas=replicas)
    launcher = Launcher(assignments, settings)
    _claim_names(settings, assignments)
    for one in assignments:
        if one.slot.devices or one.preset.choices:
            log.info("engine_options.chosen", worker=f"{one.slot.name}@{name_node()}", preset=str(one.preset))
    return launcher.run()


@cli.command()
@click.option("--model", "models", multiple=True, help=_MODEL_HELP)
@gpus_option
@replicas_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def check(models: tuple[str, ...], gpus: tuple[str, ...], replicas: int, as_json: bool) -> int:
    """Check whether this node can run workers.

    Checks Redis, the store, GPUs, package versions, disks and the clock. With --model, also checks the weights and the engine.
    The exit code is 0 if the node can run workers, 2 if you must change something, and 3 if a service does not answer.
    """
    from rich.console import Console

    from workers.doctor.finding import find_exit_code
    from workers.doctor.node import check_node
    from workers.doctor.report import print_findings, to_json
    from workers.supervisor.placement import pair_models

    settings = _prepare()
    pairs: list[tuple[str | None, str | None]] = [(None, one) for one in gpus] or [(None, None)]
    if models:
        pairs = [*pair_models(models, gpus)]
    findings = check_node(pairs, settings, replicas=replicas)
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
    from common.ledger.connection import connect_redis, reaching_redis
    from workers.supervisor.notices import withdraw_notices
    from workers.supervisor.worker_names import await_free_names

    with reaching_redis(settings), connect_redis(settings) as client:
        names = [f"{one.slot.name}@{name_node()}" for one in assignments]
        await_free_names(client, names, patience_s=settings.lease_s)
        for model in {one.model for one in assignments}:
            withdraw_notices(client, model, [one.slot.name for one in assignments if one.model == model])
