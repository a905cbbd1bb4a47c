"""Cause out-of-memory errors on the GPU, and check that batches are halved, the run ends, and samples are not lost.

    python -m benchmarks.gpu.oom [--samples 512] [--out FOLDER] [--tiny --gpus none]

The benchmark runs the ``hf`` engine with batches of up to 64 and a model of random weights. A limit on the GPU memory of its
process allows batches of about 8. ``--tiny`` runs the same flow on a CPU, where the limit is simulated.
"""

from pathlib import Path

from transformers import AutoModelForImageTextToText
from transformers.utils import logging as transformers_logging

from benchmarks.gpu.fleet import make_parser, open_fleet, print_machine, read_options
from benchmarks.gpu.model import SHAPES, Shape, make_config, write_model
from benchmarks.gpu.passes import Report
from benchmarks.gpu.questions import Asking

_ENGINE = "benchmarks.gpu.oom_engine:TightHfEngine"
_MOST = 64


def write_weights(folder: Path, shape: Shape) -> None:
    """Write a model with random weights, which take 0.9 GB in the shape ``small``."""
    write_model(folder, shape)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    model = AutoModelForImageTextToText.from_config(make_config(shape))  # type: ignore[no-untyped-call]  # as above
    model.save_pretrained(folder)


def main() -> None:
    parser = make_parser(__doc__, "gpu_oom", gpus="0")
    parser.add_argument("--samples", type=int, help="default: 512")
    asked = parser.parse_args()
    image_px, max_tokens = (112, 4) if asked.tiny else (448, 16)
    asking = Asking("too-large", asked.samples or (192 if asked.tiny else 512), max_tokens)
    asked.out.mkdir(parents=True, exist_ok=True)
    print_machine(("torch", "transformers", "celery", "redis"))
    with open_fleet(asked.out, image_px=image_px, deadline_s=asked.deadline_s) as fleet:
        shape = SHAPES["tiny" if asked.tiny else "small"]
        write_weights(fleet.folder / "model", shape)
        notes = fleet.folder / "halvings"
        options = {"dtype": shape.dtype, "max_batch_size": _MOST, **read_options(asked.option)}
        options |= {"notes": str(notes), "image_px": image_px, "max_tokens": max_tokens}
        fleet.start_workers(fleet.write_profile("gpu-oom", _ENGINE, fleet.folder / "model", options), asked.gpus)
        fleet.prepare(asking)
        fleet.wait_ready()
        one = fleet.measure(asking, has_dictated_lengths=False)
        report = Report(asked.out / "gpu_oom.jsonl")
        report.add_pass(one)
        halved = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
        print("batches that did not fit: " + "; ".join(f"{count}, then at most {size}" for count, size in halved))
        report.say("halvings", len(halved), ">= 1")
        report.say("samples lost", asking.samples - one.samples, "0")


if __name__ == "__main__":
    main()
