"""The tiny model and its data are small, loadable, accurate and reproducible from the code in ``examples/tiny``."""

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from common.spec.files import read_specs
from examples.tiny.corpus import render_prompt
from examples.tiny.digits import split_digits
from examples.tiny.make_data import KINDS, list_digits, list_shapes, write_digits, write_shapes
from examples.tiny.verify import answer_samples, is_right, to_messages

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
MODEL = EXAMPLES / "tiny" / "model"
DIGITS = EXAMPLES / "data" / "digits.tsv"
SHAPES = EXAMPLES / "data" / "shapes.jsonl"

SUBSET = 16
SUBSET_MIN_RIGHT = 14


def read_digits(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [{**row, "image": read_pixels(row["image"])} for row in csv.DictReader(stream, delimiter="\t")]


def read_shapes(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{**row, "image": read_pixels(row["image"].removeprefix("data:image/png;base64,"))} for row in rows]


def read_pixels(text: str) -> bytes:
    """Return the pixels of an image. Two builds of zlib may encode the same image in different bytes."""
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
        return image.convert("RGB").tobytes()


def test_weights_are_small_bf16_with_vllm_names() -> None:
    weights = list(MODEL.glob("*.safetensors"))
    assert [path.name for path in weights] == ["model.safetensors"]
    assert sum(path.stat().st_size for path in weights) <= 11_000_000
    with safe_open(weights[0], "pt") as archive:
        names = set(archive.keys())
        assert {archive.get_slice(name).get_dtype() for name in names} == {"BF16"}
    vision = {name for name in names if "vision" in name}
    assert vision
    assert all(name.startswith("vision_tower.vision_model.") for name in vision)
    assert {name.split(".")[0] for name in names} == {"vision_tower", "multi_modal_projector", "language_model"}


def test_weights_match_the_architecture_exactly() -> None:
    loaded: Any = AutoModelForImageTextToText.from_pretrained(MODEL, dtype="auto", output_loading_info=True)
    _, found = loaded
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert not found["mismatched_keys"]


def test_chat_template_renders_the_training_prompt() -> None:
    processor: Any = AutoProcessor.from_pretrained(MODEL)  # type: ignore[no-untyped-call]  # transformers does not annotate it
    sample, image = next(list_shapes())
    messages = to_messages(sample)
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True)
    input_ids = processor(text=rendered, images=image, return_tensors="pt")["input_ids"][0].tolist()
    trained_on = render_prompt(messages[0]["content"][1]["text"])
    assert input_ids == processor.tokenizer(trained_on)["input_ids"]


@pytest.mark.parametrize("text", ["plain words", "Ünïcode 世界 🙂", "tabs\tand\nlines \n\n", '{"a": [1, 2]}'])
def test_tokenizer_encodes_any_text(text: str) -> None:
    processor: Any = AutoProcessor.from_pretrained(MODEL)  # type: ignore[no-untyped-call]  # transformers does not annotate it
    tokenizer = processor.tokenizer
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_data_files_are_reproduced_from_seeds(tmp_path: Path) -> None:
    write_digits(tmp_path / DIGITS.name)
    write_shapes(tmp_path / SHAPES.name)
    assert read_digits(tmp_path / DIGITS.name) == read_digits(DIGITS)
    assert read_shapes(tmp_path / SHAPES.name) == read_shapes(SHAPES)


def test_data_files_are_small_and_have_no_duplicates() -> None:
    assert DIGITS.stat().st_size + SHAPES.stat().st_size <= 3_000_000
    digits, shapes = read_digits(DIGITS), read_shapes(SHAPES)
    assert (len(digits), len(shapes)) == (500, 1500)
    assert len({(row["image"], row["question"]) for row in digits}) == len(digits)
    assert len({(row["image"], row["kind"], row["question"]) for row in shapes}) == len(shapes)
    assert len({row["index"] for row in digits}) == len(digits)
    assert len({row["qid"] for row in shapes}) == len(shapes)


def test_questions_about_one_scene_are_adjacent() -> None:
    shapes = read_shapes(SHAPES)
    for start in range(0, len(shapes), len(KINDS)):
        scene = shapes[start : start + len(KINDS)]
        assert [row["kind"] for row in scene] == list(KINDS)
        assert len({row["image"] for row in scene}) == 1


def test_held_out_digits_are_not_in_training() -> None:
    training, held_out = split_digits()
    assert (len(training), len(held_out)) == (1297, 500)
    assert not {digit.row for digit in training} & {digit.row for digit in held_out}
    assert not {digit.image.tobytes() for digit in training} & {digit.image.tobytes() for digit in held_out}


def test_demo_spec_refers_to_existing_files() -> None:
    (spec,) = read_specs(EXAMPLES / "demo.yaml")
    assert [source.name for source in spec.datasets] == ["digits", "shapes"]
    assert (spec.generation.max_tokens, spec.validation.max_attempts, spec.shuffle.seed) == (32, 4, 2025)


def test_model_answers_held_out_samples() -> None:
    samples = [*list_digits(), *list_shapes()]
    subset = samples[:: len(samples) // SUBSET][:SUBSET]
    answers = answer_samples(MODEL, subset, batch_size=SUBSET)
    right = [is_right(sample, answer) for (sample, _), answer in zip(subset, answers, strict=True)]
    assert sum(right) >= SUBSET_MIN_RIGHT
