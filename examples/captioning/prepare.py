"""Write the shapes without a caption as a dataset: ``python -m examples.captioning.prepare``.

A shape has a caption if its text file, such as ``shape_descriptions/shape.png.txt``, exists and is not empty.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import click

from common.errors import ConfigError
from common.program.commands import run_program
from examples.captioning.documents import Found, Shape, iterate_shapes

# The tiny model was trained with this wording. For a larger model, state the maximum length in the question (README.md).
QUESTION = "Hint: {context}\nDescribe the picture."


@dataclass
class Prepared(Found):
    """The counts of a preparation. ``rows`` counts the written rows, and ``captioned`` the shapes that already have a caption."""

    rows: int = field(default=0, kw_only=True)
    captioned: int = field(default=0, kw_only=True)

    def describe(self) -> str:
        others = "".join(
            f", {count:,} {kind}" for kind, count in sorted({"repeated": self.repeated, **self.others}.items()) if count
        )
        return f"{self.rows:,} shapes without a caption, {self.captioned:,} with a caption{others}"


def write_rows(project: Path, captions: Path, path: Path, *, question: str = QUESTION) -> Prepared:
    """Write a JSON line to ``path`` for each shape of the project without a caption in the folder ``captions``.

    The id of a row is the path of its image, so ``producer export --names id`` names the caption after the image. The file is
    created only when it is complete, and only if it has rows. Raises ``ConfigError`` if it cannot be written.
    """
    prepared = Prepared()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with unfinished.open("w", encoding="utf-8") as lines:
                for shape in iterate_shapes(project, prepared):
                    if _has_caption(captions, shape):
                        prepared.captioned += 1
                    else:
                        prepared.rows += 1
                        lines.write(json.dumps(_to_row(shape, question), ensure_ascii=False) + "\n")
            if prepared.rows:
                unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error}); check permissions and free space") from error
    return prepared


def _has_caption(captions: Path, shape: Shape) -> bool:
    path = captions / f"{shape.image}.txt"
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the folder of captions") from error


def _to_row(shape: Shape, question: str) -> dict[str, str]:
    row = {"id": shape.image, "image": shape.image, "question": question.replace("{context}", shape.context)}
    return {**row, "context": shape.context, "document": shape.document, "element": shape.element}


@click.command()
@click.option("--project", type=click.Path(path_type=Path, file_okay=False), required=True, help="The project folder.")
@click.option("--captions", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of existing captions.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The JSON lines file to write.")
@click.option("--question", default=QUESTION, show_default=True, help="The question. {context} stands for the context of an image.")
def cli(project: Path, captions: Path, out: Path, question: str) -> int:
    """Write the shapes without a caption as a dataset for a run spec."""
    prepared = write_rows(project, captions, out, question=question)
    click.echo("\n".join([prepared.describe(), *prepared.faults]))
    return 1 if prepared.faults else 0


if __name__ == "__main__":
    run_program("prepare", "examples.captioning.prepare")
