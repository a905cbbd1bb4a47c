"""Caption the shapes of a project on this machine: prepare the rows, run them with one worker, and export the captions.

All state is in one folder (``.fleet/captioning``). The command can be interrupted at any time. The next start first finishes the
rows of the interrupted start, and then prepares the images without a caption.
"""

from pathlib import Path

import click
from rich.console import Console

from common.exit_codes import NOT_ALL_OK
from common.records import RunState
from common.redaction import mask_text
from common.spec.files import read_specs
from common.storage.run_record import load_planned_run
from common.storage.store import open_store
from examples.captioning.prepare import write_rows
from producer.datasets.survey import survey_specs
from producer.demo.demo import run_here, store_url
from producer.results.export.captions import write_captions
from producer.results.export.choices import Naming, TextField
from producer.results.export.exported import describe_export
from producer.runs.control import RETRIED

HERE = Path(__file__).resolve().parent


@click.command()
@click.option("--project", type=click.Path(path_type=Path, file_okay=False), default=HERE / "data", help="The project folder.")
@click.option("--images", type=click.Path(path_type=Path, file_okay=False), help="Folder of the images. Default: PROJECT/raw.")
@click.option("--spec", type=click.Path(path_type=Path, dir_okay=False), default=HERE / "captioning.yaml", help="The run spec.")
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path(".fleet/captioning"), show_default=True
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of captions. Default: DIR/shape_descriptions."
)
def cli(project: Path, images: Path | None, spec: Path, folder: Path, out: Path | None) -> int:
    """Write a caption for each shape image of PROJECT that does not have one.

    After an interruption, the same command continues. If all images have captions, it does nothing.
    """
    console = Console()
    out = out or folder / "shape_descriptions"
    rows = folder / "shapes.jsonl"
    changes = (f"datasets.0.path={rows.resolve()}", f"datasets.0.media_root={(images or project / 'raw').resolve()}")
    is_complete = True
    if rows.exists():  # an earlier start was interrupted
        is_complete = _caption_rows(spec, changes, folder, out, console)
    if is_complete:
        prepared = write_rows(project, out, rows)
        console.print(mask_text("\n".join([prepared.describe(), *prepared.faults])), highlight=False, markup=False, soft_wrap=True)
        if prepared.rows:
            is_complete = _caption_rows(spec, changes, folder, out, console)
        is_complete = is_complete and not prepared.faults
    return 0 if is_complete else NOT_ALL_OK


def _caption_rows(spec_path: Path, changes: tuple[str, ...], folder: Path, out: Path, console: Console) -> bool:
    """Run the prepared rows and export their captions. Return whether every row has a caption.

    The file of rows is deleted when the run has ended and its captions are exported, so that the next start prepares the images
    that are still without a caption.
    """
    (spec,), _ = survey_specs(read_specs(spec_path, changes))
    status = run_here(spec, folder, console, retry=RETRIED)
    store = open_store(store_url(folder))
    exported = write_captions(load_planned_run(store, spec.run_id), store, out, TextField.PREDICTION, Naming.ID)
    console.print(describe_export(exported, str(out)), highlight=False, markup=False, soft_wrap=True)
    if status.state == RunState.DONE:
        Path(spec.datasets[0].path).unlink()
    return exported.is_complete
