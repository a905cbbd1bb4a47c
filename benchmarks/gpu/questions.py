"""The requests of the GPU benchmarks: new pictures that are not cached, questions about them, and dictated lengths."""

import json
import random
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

SAMPLES_IN_FLIGHT = 512  # on every side of a comparison that limits them

# If a run has this max_tokens, each sample has its own answer length. In other runs each answer has exactly max_tokens.
LONGEST_TOKENS = 512
_SHORTEST_TOKENS = 16
_MEDIAN_TOKENS = 93
_SIGMA = 0.907  # standard deviation of the logarithm; with both bounds the mean is 133 tokens

_JPEG_QUALITY = 90
_GRAIN_PX = 16  # the noise is smooth over this many pixels, so that its JPEG is about as large as that of a photograph

_QUESTIONS = (
    "What does this picture show?",
    "Which colours stand out in it?",
    "Where is the brightest spot?",
    "How many shapes can you count?",
    "What lies along the left edge?",
    "Is the upper half the darker one?",
    "Which part would you crop away?",
    "How would you name this picture?",
)


@dataclass(frozen=True)
class Asking:
    """The specification of one run: ``images`` new pictures, and ``questions`` (1 to 8) about each picture.

    - ``name`` is the name of the dataset, and the only seed of the pictures.
    - ``max_tokens`` is the limit of tokens for each answer.
    - ``grouped`` is true if the questions about a picture form one group. If it is false, each question is a separate group, so
      that the producer's shuffle separates questions about the same picture.
    """

    name: str
    images: int
    max_tokens: int
    questions: int = 1
    grouped: bool = True

    @property
    def samples(self) -> int:
        return self.images * self.questions


def write_run(folder: Path, asking: Asking, *, profile: Path, image_px: int) -> Path:
    """Write the pictures, the dataset and the spec of a run, and return the path of the spec."""
    pictures = write_pictures(folder / asking.name, asking.images, image_px)
    rows = [
        {
            "question": question,
            "image": str(picture.relative_to(folder)),
            "group": None if asking.grouped else f"{at}-{picture.stem}",
        }
        for picture in pictures
        for at, question in enumerate(_QUESTIONS[: asking.questions])
    ]
    dataset, spec = folder / f"{asking.name}.jsonl", folder / f"{asking.name}.yaml"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    generation = {"max_tokens": asking.max_tokens, "temperature": 0.0}
    spec.write_text(yaml.safe_dump({"model": str(profile), "datasets": [{"path": str(dataset)}], "generation": generation}))
    return spec


def write_pictures(folder: Path, count: int, image_px: int) -> Sequence[Path]:
    """Write ``count`` square JPEG files of smooth random noise, seeded by the folder's name, and return their paths."""
    folder.mkdir()
    seed = zlib.crc32(folder.name.encode())

    def write(number: int) -> Path:
        grain = np.random.default_rng([seed, number]).integers(0, 256, (image_px // _GRAIN_PX,) * 2 + (3,), dtype=np.uint8)
        path = folder / f"{number:05}.jpg"
        Image.fromarray(grain).resize((image_px, image_px), Image.Resampling.BICUBIC).save(path, quality=_JPEG_QUALITY)
        return path

    with ThreadPoolExecutor() as pool:
        return list(pool.map(write, range(count)))


def dictate_length(sample_id: str, max_tokens: int) -> int:
    """Return the number of tokens that the answer to a sample must have."""
    if max_tokens != LONGEST_TOKENS:
        return max_tokens
    drawn = random.Random(sample_id).lognormvariate(float(np.log(_MEDIAN_TOKENS)), _SIGMA)
    return min(max(round(drawn), _SHORTEST_TOKENS), LONGEST_TOKENS)
