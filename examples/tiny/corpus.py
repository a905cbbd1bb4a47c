"""The training stream: an unlimited sequence of new scenes and distorted digits, in batches of token ids and pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from common.prompts.messages import join_text, render_messages
from common.records import Kind, Sample
from common.spec.prompts import PromptSpec
from examples.tiny.architecture import IMAGE_TOKENS
from examples.tiny.digits import ask_digit, distort_digit, show_digit, split_digits
from examples.tiny.questions import ask_scene
from examples.tiny.scenes import draw_scene, make_scene

IGNORED = -100  # the label of a position that does not count in the loss

# Lines similar to the reminders that a retry adds at the end of a prompt. The answer must be the same with and without them.
REMINDERS: dict[Kind, tuple[str, ...]] = {
    "multiple_choice": (
        "Answer with the option's letter only.",
        "Answer with the letter of the correct option only.",
        "Reply with one letter only: A, B, C or D.",
    ),
    "yes_no": ("Answer Yes or No.", "Answer with Yes or No only.", "Please answer yes or no."),
    "number": ("Answer with a number only.", "Answer with one number, in digits.", "Reply with the number only."),
    "short_text": ("Answer with a single word or phrase.", "Answer in one to three words.", "Keep the answer short."),
    "free_text": ("Answer the question.", "Answer in one sentence.", "Do not repeat yourself."),
}
_HINTS = ("Look at the whole picture.", "The picture is small.", "There is exactly one right answer.")
_KINDS: tuple[Kind, ...] = ("multiple_choice", "yes_no", "number", "short_text", "free_text")
_SCENE_SHARES = (4, 2, 2, 2, 3)
_DIGIT_SHARES = (6, 1, 1, 1, 1)
_DIGITS = 0.25


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch.

    ``ids`` and ``labels`` have the shape (batch, length) and are padded on the right. ``pixels`` has the shape
    (batch, 3, 64, 64) and the dtype uint8.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    pixels: torch.Tensor


class Corpus(IterableDataset[Batch]):
    """An unlimited sequence of batches. Each loader process draws its own sequence from ``seed`` and its worker number."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, batch_size: int, seed: int) -> None:
        self.tokenizer, self.batch_size, self.seed = tokenizer, batch_size, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rng = Random(f"training {self.seed} {worker.id if worker else 0}")
        while True:
            yield self._pack([draw_example(rng) for _ in range(self.batch_size)])

    def _pack(self, examples: list[tuple[str, str, Image.Image]]) -> Batch:
        prompts = self.tokenizer([prompt for prompt, _, _ in examples], add_special_tokens=False)["input_ids"]
        answers = self.tokenizer([answer for _, answer, _ in examples], add_special_tokens=False)["input_ids"]
        length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        ids = np.full((len(examples), length), self.tokenizer.pad_token_id, np.int64)
        labels = np.full_like(ids, IGNORED)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            ids[row, :end] = [*prompt, *answer]
            labels[row, len(prompt) : end] = answer
        pixels = np.stack([np.asarray(image.convert("RGB")) for _, _, image in examples]).transpose(0, 3, 1, 2)
        return Batch(torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(np.ascontiguousarray(pixels)))


def draw_example(rng: Random) -> tuple[str, str, Image.Image]:
    """Return one random training example: the prompt as the chat template renders it, the answer with ``</s>``, and the image."""
    if rng.random() < _DIGITS:
        digit = rng.choice(split_digits()[0])
        sample = ask_digit(rng, digit.value, rng.choices(_KINDS, _DIGIT_SHARES)[0])
        image = show_digit(distort_digit(rng, digit.image))
    else:
        scene = make_scene(rng)
        sample = ask_scene(rng, scene, rng.choices(_KINDS, _SCENE_SHARES)[0])
        image = draw_scene(scene)
    sample = _reword(rng, sample)
    reminder = rng.choice(REMINDERS[sample.kind]) if rng.random() < 0.1 else None
    text = render_question(sample) + (f"\n{reminder}" if reminder else "")
    return render_prompt(text), f"{sample.target[0]}</s>", image


def render_question(sample: Sample) -> str:
    """Return the text that the product sends for a sample, without its image."""
    (message,) = render_messages(sample, PromptSpec()).messages
    return join_text(message.content)


def render_prompt(text: str) -> str:
    """Return the prompt of one image and ``text``, as the chat template and the processor render it."""
    return f"<s><|user|>{'<image>' * IMAGE_TOKENS}{text}<|assistant|>"


def _reword(rng: Random, sample: Sample) -> Sample:
    """Return the sample. In 3 % of cases each, add a hint, use lower case, or remove the last punctuation mark."""
    chance = rng.random()
    if chance < 0.03:
        return sample.model_copy(update={"hint": rng.choice(_HINTS)})
    if chance < 0.06:
        return sample.model_copy(update={"question": sample.question.lower()})
    if chance < 0.09:
        return sample.model_copy(update={"question": sample.question[:-1]})
    return sample
