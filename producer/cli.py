"""The ``producer`` command. Each subcommand opens its services, calls one module, and prints the result.

Imports are local to each subcommand, so that ``--help`` starts fast.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.exit_codes import NOT_ALL_OK
from producer.results.export.choices import Naming, TextField
from producer.results.export.registry import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.ledger.ledger import Ledger
    from common.records import Outcome, Sample
    from common.spec.models import RunSpec
    from common.storage.store import Store

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def _check_run_id(context: click.Context, parameter: click.Parameter, run_id: str) -> str:
    """Return ``run_id``. Raises ``ConfigError`` if it does not have the form of a run id."""
    del context, parameter
    from common.digests import is_run_id
    from common.errors import ConfigError

    if not is_run_id(run_id):
        raise ConfigError(f"RUN: found {run_id[:80]!r}; expected a run id as producer enqueue prints it, such as tiny-1f0c92b4d7aa")
    return run_id


run_argument = click.argument("run_id", metavar="RUN", callback=_check_run_id)


@click.group()
def cli() -> None:
    """Plan, enqueue and watch runs; collect and score their outcomes."""
    from common.logging import configure_log
    from common.settings import get_settings

    settings = get_settings()
    configure_log(settings.log_level, as_json=settings.log_json)


@cli.command()
@click.argument("spec_path", metavar="SPEC", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "changes",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Override any field, for example generation.max_tokens=64.",
)
@click.option("--dry-run", is_flag=True, help="Print the resolved spec, its digest and the counts as JSON. Do not write a plan.")
@json_option
def enqueue(spec_path: Path, changes: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Plan and enqueue the runs that SPEC describes.

    Enqueueing the same spec again enqueues only the chunks that are missing.
    """
    from rich.console import Console

    from common.broker.app import make_app
    from common.settings import get_settings
    from common.spec.files import read_specs
    from producer.console.status import print_enqueued
    from producer.datasets.survey import survey_specs
    from producer.planning.plan import describe_plan
    from producer.runs.enqueue import enqueue_run

    specs, notices = survey_specs(read_specs(spec_path, changes))
    if dry_run:
        described = [describe_plan(spec, _read_samples(spec)) for spec in specs]
        for plan in described:
            plan["notices"] = [notice.model_dump(exclude_none=True) for notice in [*notices, *plan["notices"]]]
        click.echo(json.dumps(described, indent=2, ensure_ascii=False))
        return
    settings = get_settings()
    with _fleet(create=True) as (store, ledger):
        store.probe()
        for spec in specs:
            enqueued = enqueue_run(spec, _read_samples(spec), store, ledger, make_app(settings))
            click.echo(enqueued.model_dump_json()) if as_json else print_enqueued(enqueued, Console())


@cli.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--format", "format_name", metavar="FORMAT", help="Default: determined by the ending or the content of the file.")
@click.option("--field", "mappings", metavar="OURS=THEIRS", multiple=True, help="Use a column as a field, as in image=img.")
@click.option("--rows", "most_rows", type=click.IntRange(0, 1000), default=3, show_default=True, help="Number of rows to show.")
@json_option
def inspect(paths: tuple[str, ...], format_name: str | None, mappings: tuple[str, ...], most_rows: int, as_json: bool) -> None:
    """Show how a dataset is read.

    PATH is a file, a folder, a quoted glob or hf://ORGANIZATION/NAME. Prints the format, the use of each column, the first rows
    as a model gets them, the counts, the faults, and the lines to paste into a spec. Does not need Redis or a store.
    """
    from rich.console import Console

    from common.errors import ConfigError
    from producer.console.inspection import print_inspection
    from producer.planning.inspection import find_source, inspect_dataset

    inspection = inspect_dataset(find_source(paths, format_name, mappings), most_rows=most_rows)
    click.echo(inspection.model_dump_json(indent=2)) if as_json else print_inspection(inspection, Console())
    if inspection.refusal:
        raise ConfigError(inspection.refusal)


@cli.command()
@run_argument
@json_option
def status(run_id: str, as_json: bool) -> None:
    """Show the progress of a run.

    Prints the samples by state, the rate, the time left, and the chunks that each worker holds.
    """
    from rich.console import Console

    from producer.console.status import print_status
    from producer.runs.status import read_status

    with _fleet() as (store, ledger):
        read = read_status(run_id, store, ledger)
    click.echo(read.model_dump_json(indent=2)) if as_json else print_status(read, Console())


@cli.command()
@run_argument
def watch(run_id: str) -> int:
    """Follow a run until it ends. Ctrl+C stops watching; the run continues."""
    from rich.console import Console

    from producer.console.watch import watch_run
    from producer.runs.status import prepare_status

    with _fleet() as (store, ledger):
        last = watch_run(prepare_status(run_id, store, ledger), Console())
    return 0 if last.all_ok else NOT_ALL_OK


@cli.command()
@run_argument
@click.option("--retry", metavar="STATUSES", multiple=True, help="Statuses to run again: failed, invalid or failed,invalid.")
@click.option("--rebuild", is_flag=True, help="Delete the run from Redis and rebuild it from the store.")
@json_option
def resume(run_id: str, retry: tuple[str, ...], rebuild: bool, as_json: bool) -> None:
    """Resume a paused or cancelled run.

    Enqueues every chunk that is neither done nor leased. With --retry failed,invalid, the samples with these statuses are run
    again. Each sample keeps its outcome until it has a better one.
    """
    from rich.console import Console

    from common.broker.app import make_app
    from common.settings import get_settings
    from producer.console.status import print_resumed
    from producer.runs.control import resume_run

    statuses = _split_statuses(",".join(retry))
    with _fleet() as (store, ledger):
        resumed = resume_run(run_id, store, ledger, make_app(get_settings()), retry=statuses, rebuild=rebuild)
    click.echo(resumed.model_dump_json()) if as_json else print_resumed(resumed, statuses, Console())


@cli.command()
@run_argument
@json_option
def cancel(run_id: str, as_json: bool) -> None:
    """Cancel a run.

    Workers finish the chunks that they hold, and finished chunks are kept. `producer resume RUN` continues the run.
    """
    from rich.console import Console

    from producer.console.status import print_status
    from producer.runs.control import cancel_run

    with _fleet() as (store, ledger):
        cancelled = cancel_run(run_id, store, ledger)
    click.echo(cancelled.model_dump_json(indent=2)) if as_json else print_status(cancelled, Console())


@cli.command()
@run_argument
@click.option("--out", "folder", type=click.Path(path_type=Path, file_okay=False), help="Default: results/RUN.")
@json_option
def collect(run_id: str, folder: Path | None, as_json: bool) -> int:
    """Write results.parquet and results.jsonl.

    Both files have one row for each row of the datasets, including rows without an outcome yet. Rows with the same request are
    sent once and share their sample_id.
    """
    from common.redaction import mask_text
    from producer.results.collect import write_results

    folder = folder or Path("results") / run_id
    statuses = write_results(_collect(run_id), folder)
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "samples": statuses}))
    else:
        counted = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
        click.echo(mask_text(f"{folder}/results.parquet and .jsonl: {counted}"))
    return 0 if set(statuses) == {"ok"} else NOT_ALL_OK


@cli.command()
@run_argument
@click.option("--format", "format_name", type=click.Choice(list(FORMATS)), required=True, help="captions: one text file per image.")
@click.option("--out", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the files.")
@click.option(
    "--field",
    type=click.Choice([one.value for one in TextField]),
    default=TextField.PREDICTION.value,
    show_default=True,
    help="The text to write: the prediction without thinking blocks, the extracted answer, or the raw response.",
)
@click.option(
    "--names",
    type=click.Choice([one.value for one in Naming]),
    default=Naming.FILE.value,
    show_default=True,
    help="Name files after image files, after the paths of image files (keeps folders), or after row ids.",
)
@json_option
def export(run_id: str, format_name: str, folder: Path, field: str, names: str, as_json: bool) -> int:
    """Write the answers of a run in a format of other tools.

    Only samples with the status ok are written. All other samples are counted and listed with their status. A file that
    already has the same content is left unchanged.
    """
    from common.storage.run_record import load_planned_run
    from producer.results.export.exported import describe_export
    from producer.results.export.registry import load_writer

    store = _open_store()
    exported = load_writer(format_name)(load_planned_run(store, run_id), store, folder, TextField(field), Naming(names))
    click.echo(exported.model_dump_json(indent=2) if as_json else describe_export(exported, str(folder)))
    return 0 if exported.is_complete else NOT_ALL_OK


@cli.command()
@run_argument
@json_option
def evaluate(run_id: str, as_json: bool) -> int:
    """Score the outcomes of a run.

    Prints the accuracy of each dataset with its n and confidence interval, at the first attempt and after retries.
    """
    from rich.console import Console

    from producer.console.scores import print_scores
    from producer.evaluation.evaluate import evaluate_run

    evaluation = evaluate_run(run_id, _open_store(), _collect(run_id))
    click.echo(evaluation.model_dump_json(indent=2)) if as_json else print_scores(evaluation, Console())
    return 0 if evaluation.overall.ok == evaluation.overall.rows else NOT_ALL_OK


@cli.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path(".fleet/demo"), show_default=True)
def demo(folder: Path) -> None:
    """Run a complete example on this machine.

    Uses the small model and the datasets of the repository. After Ctrl+C, the same command continues the run.
    """
    from rich.console import Console

    from producer.demo.demo import run_demo

    run_demo(folder, Console())


@contextmanager
def _fleet(*, create: bool = False) -> Iterator[tuple[Store, Ledger]]:
    """Open the store and the ledger. If Redis becomes unreachable, the command ends with exit code 3.

    With ``create``, a missing folder of a local store is created, but not if the ledger has runs. The store of these runs has
    objects, so its folder is only temporarily missing.
    """
    from common.ledger.connection import connect_redis, reaching_redis
    from common.ledger.ledger import Ledger
    from common.settings import get_settings

    settings = get_settings()
    with reaching_redis(settings):
        ledger = Ledger(connect_redis(settings), settings)
        yield _open_store(create=create and not ledger.has_runs()), ledger


def _split_statuses(text: str) -> tuple[str, ...]:
    from common.errors import ConfigError
    from producer.runs.control import RETRIED

    statuses = tuple(status.strip() for status in text.split(",") if status.strip())
    if unknown := [status for status in statuses if status not in RETRIED]:
        raise ConfigError(f"--retry {text!r}: {unknown[0]!r} cannot be run again; expected failed, invalid or failed,invalid")
    return statuses


def _open_store(*, create: bool = False) -> Store:
    from common.settings import get_settings
    from common.storage.store import open_store

    return open_store(get_settings().store_url, create=create)


def _read_samples(spec: RunSpec) -> Iterator[Sample]:
    from producer.planning.requests import read_requests
    from producer.progress import show_progress

    return show_progress(read_requests(spec), "reading samples")


def _collect(run_id: str) -> Iterator[Outcome]:
    from producer.progress import show_progress
    from producer.results.collect import collect_rows

    return show_progress(collect_rows(run_id, _open_store()), "collecting rows")
