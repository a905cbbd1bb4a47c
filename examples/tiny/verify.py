"""Measure held-out accuracy with the product's prompts: ``python -m examples.tiny.verify``.

The exit code is 1 if the accuracy on a dataset is below its threshold.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from common.records import Sample
from examples.tiny.corpus import render_question
from examples.tiny.make_data import list_digits, list_shapes

MODEL = Path(__file__).resolve().parent / "model"
BARS = {"digits": 0.95, "shapes": 0.90}
MAX_TOKENS = 32


def to_messages(sample: Sample) -> list[dict[str, Any]]:
    """Return the product's prompt for a sample with one image, in the form that a chat template expects."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": render_question(sample)}]}]


def answer_samples(folder: Path, samples: Sequence[tuple[Sample, Image.Image]], *, batch_size: int) -> Iterator[str]:
    """Yield the model's greedy answer to each sample, in order, computed in the dtype of the weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor: Any = AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    model.to(device).eval()
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        prompts = [processor.apply_chat_template(to_messages(sample), add_generation_prompt=True) for sample, _ in batch]
        images = [image.convert("RGB") for _, image in batch]
        inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt").to(device, model.dtype)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        yield from processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def is_right(sample: Sample, answer: str) -> bool:
    """Return whether the answer equals a target. Ignore case, surrounding whitespace and final punctuation."""
    return _normalize(answer) in {_normalize(target) for target in sample.target}


def _normalize(text: str) -> str:
    return text.strip().rstrip(".!?").casefold()


def main() -> int:
    """Print the accuracy by dataset, kind and category, each with its n, and return the exit code."""
    parser = argparse.ArgumentParser(description="Measure the tiny model's held-out accuracy.")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--answers", type=Path, help="write every answer to this JSONL file")
    arguments = parser.parse_args()
    samples = [*list_digits(), *list_shapes()]
    started = time.monotonic()
    answers = list(answer_samples(arguments.model, samples, batch_size=arguments.batch_size))
    seconds = time.monotonic() - started
    hits: dict[str, list[bool]] = defaultdict(list)
    for (sample, _), answer in zip(samples, answers, strict=True):
        for name in (sample.dataset, f"{sample.dataset}, {sample.kind}, {sample.metadata['category']}"):
            hits[name].append(is_right(sample, answer))
    if arguments.answers:
        records = (
            {"dataset": sample.dataset, "index": sample.index, "answer": answer, "target": sample.target[0]}
            for (sample, _), answer in zip(samples, answers, strict=True)
        )
        arguments.answers.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    for name, right in sorted(hits.items()):
        print(f"{name:42} {sum(right) / len(right):.4f}  n={len(right)}")
    print(f"{len(samples)} samples in {seconds:.1f} s")
    return int(any(sum(hits[name]) / len(hits[name]) < bar for name, bar in BARS.items()))


if __name__ == "__main__":
    sys.exit(main())
