"""The UCI handwritten digits of scikit-learn, images of 8x8 pixels in 17 shades, and questions about them."""

from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from common.records import Kind, Sample
from examples.tiny.questions import CAPTION_WORDINGS, Fact, add_article, draw_options, make_sample

HELD_OUT = 500
SPLIT_SEED = 2025
IMAGE_PX = 64
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUMERALS = tuple("0123456789")

_SHADES = 16
_UNCHANGED_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Digit:
    """One handwritten digit: its row in the data set, its value, and its 8x8 image (bright ink, values 0 to 255)."""

    row: int
    value: int
    image: Image.Image


@cache
def split_digits() -> tuple[tuple[Digit, ...], tuple[Digit, ...]]:
    """Return the 1297 training digits and the 500 held-out digits, split by a seeded shuffle of the rows."""
    bunch = load_digits()
    pixels = (bunch.images * (255 / _SHADES)).round().astype(np.uint8)
    rows = list(range(len(pixels)))
    Random(SPLIT_SEED).shuffle(rows)
    digits = [Digit(row, int(bunch.target[row]), Image.fromarray(pixels[row])) for row in rows]
    return tuple(digits[HELD_OUT:]), tuple(digits[:HELD_OUT])


def show_digit(image: Image.Image) -> Image.Image:
    """Return the digit at 64x64 pixels. Each pixel becomes a block of one shade, so that resizing does not lose information."""
    return image.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.NEAREST)


def distort_digit(rng: Random, image: Image.Image) -> Image.Image:
    """Return a random variant of the 8x8 digit: rotated, moved, slanted, scaled and with another ink intensity."""
    if rng.random() < _UNCHANGED_SHARE:
        return image
    large = image.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)
    centre = IMAGE_PX / 2
    across, down = rng.gauss(1, 0.08), rng.gauss(1, 0.08)
    slant, rotation = rng.gauss(0, 0.12), rng.gauss(0, 0.08)
    row_x, row_y = (across, slant + rotation), (-rotation, down)
    left = centre - row_x[0] * centre - row_x[1] * centre + rng.gauss(0, 3)
    top = centre - row_y[0] * centre - row_y[1] * centre + rng.gauss(0, 3)
    moved = large.transform(large.size, Image.Transform.AFFINE, (*row_x, left, *row_y, top), Image.Resampling.BILINEAR)
    ink = np.asarray(moved.resize(image.size, Image.Resampling.BOX), np.float32) / 255
    ink = ink ** rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.3)
    shades = (ink * _SHADES + rng.uniform(-0.5, 0.5)).round().clip(0, _SHADES)
    return Image.fromarray((shades * (255 / _SHADES)).round().astype(np.uint8))


def ask_digit(rng: Random, value: int, kind: Kind) -> Sample:
    """Return a random question of the given kind about a digit, as a sample without media."""
    if kind == "multiple_choice":
        return _ask_choice(rng, value)
    if kind == "yes_no":
        named = value if rng.random() < 0.5 else rng.randrange(10)
        name = rng.choice([f"the digit {named}", add_article(WORDS[named]), f"a {named}"])
        return make_sample(kind, Fact("confirmation", f"Is this {name}?", "Yes" if named == value else "No"))
    if kind == "number":
        return make_sample(kind, Fact("numeral", rng.choice(_NUMERAL_WORDINGS), NUMERALS[value]))
    if kind == "short_text":
        return make_sample(kind, Fact("word", rng.choice(_WORD_WORDINGS), WORDS[value]))
    return make_sample("free_text", Fact("caption", rng.choice(CAPTION_WORDINGS), f"The handwritten digit {value}."))


def _ask_choice(rng: Random, value: int) -> Sample:
    category = rng.choice(["numeral", "numeral", "word", "parity"])
    if category == "parity":
        question = rng.choice(["Is this digit even or odd?", "Is the number in the picture even or odd?"])
        return make_sample("multiple_choice", Fact(category, question, ("even", "odd")[value % 2]), rng.sample(["even", "odd"], 2))
    wordings, names = (_NUMERAL_WORDINGS, NUMERALS) if category == "numeral" else (_WORD_WORDINGS, WORDS)
    fact = Fact(category, rng.choice(wordings), names[value], names)
    return make_sample("multiple_choice", fact, draw_options(rng, fact.answer, fact.candidates))


_NUMERAL_WORDINGS = (
    "Which digit is this?",
    "Which digit is shown in the picture?",
    "What number is written here?",
    "Which handwritten digit do you see?",
)
_WORD_WORDINGS = (
    "Which digit is this, in words?",
    "What is the name of the digit in the picture?",
    "How is this number spelled out?",
)
