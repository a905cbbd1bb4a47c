"""Write the held-out files: ``python -m examples.tiny.make_data [--out examples/data]``. The output is deterministic."""

import argparse
import base64
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from PIL import Image

from common.records import Kind, Sample
from examples.tiny.digits import ask_digit, show_digit, split_digits
from examples.tiny.questions import ask_scene
from examples.tiny.scenes import draw_scene, make_scene

HELD_OUT_SCENES = 300
KINDS: tuple[Kind, ...] = ("multiple_choice", "yes_no", "number", "short_text", "free_text")

_COLUMNS = ("index", "image", "question", "A", "B", "C", "D", "answer", "category")
_DATA = Path(__file__).resolve().parent.parent / "data"


def list_digits() -> Iterator[tuple[Sample, Image.Image]]:
    """Yield the held-out digits as pairs of a sample and an image, with one multiple-choice question for each digit."""
    for number, digit in enumerate(split_digits()[1]):
        sample = ask_digit(Random(f"held-out digit {number}"), digit.value, "multiple_choice")
        yield sample.model_copy(update={"dataset": "digits", "index": number}), show_digit(digit.image)


def list_shapes() -> Iterator[tuple[Sample, Image.Image]]:
    """Yield the held-out scenes as pairs of a sample and an image, with one question of each kind in adjacent rows.

    Training seeds never begin with ``held-out``, so these scenes do not occur in the training.
    """
    for number in range(HELD_OUT_SCENES):
        rng = Random(f"held-out scene {number}")
        scene = make_scene(rng)
        image = draw_scene(scene)
        for kind in KINDS:
            sample = ask_scene(rng, scene, kind)
            yield sample.model_copy(update={"dataset": "shapes", "index": f"scene-{number:03d}-{kind}"}), image


def encode_png(image: Image.Image) -> str:
    """Return the image as a PNG in base64."""
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def write_digits(path: Path) -> None:
    """Write the digits as a VLMEvalKit TSV."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, _COLUMNS, restval="", delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for sample, image in list_digits():
            row = {"index": sample.index, "image": encode_png(image), "question": sample.question, **sample.options}
            writer.writerow({**row, "answer": sample.target[0], "category": sample.metadata["category"]})


def write_shapes(path: Path) -> None:
    """Write the scenes as JSONL, with the images as data URLs."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for sample, image in list_shapes():
            row = {"qid": sample.index, "kind": sample.kind, "category": sample.metadata["category"], "question": sample.question}
            options = {"options": sample.options} if sample.options else {}
            url = f"data:image/png;base64,{encode_png(image)}"
            stream.write(json.dumps({**row, **options, "answer": sample.target[0], "image": url}, ensure_ascii=False) + "\n")


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description="Write the held-out files of examples/data.")
    parser.add_argument("--out", type=Path, default=_DATA)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, write in (("digits.tsv", write_digits), ("shapes.jsonl", write_shapes)):
        write(out / name)
        print(f"{out / name}: {(out / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
