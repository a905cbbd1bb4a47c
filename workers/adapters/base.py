"""The adapter interface, and the question text that most model families share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from common.records import Sample
from workers.engines.base import Message


@dataclass(frozen=True, slots=True)
class Prompt:
    """The conversation for one sample, without its images.

    The worker adds the images and the sampling parameters to make a ``Request``. ``template_options`` are passed to the
    model's chat template.
    """

    messages: tuple[Message, ...]
    template_options: Mapping[str, Any]


class Adapter(Protocol):
    """The prompt format and the answer format of one model family."""

    def to_prompt(self, sample: Sample, *, images: int, reminder: str | None = None) -> Prompt:
        """Return the conversation that asks the sample's question.

        ``images`` is the number of images of the sample's media. A video has several images, one for each frame. A retry
        adds ``reminder``, a description of the expected answer format.
        """

    def to_prediction(self, sample: Sample, text: str) -> str:
        """Return the answer in the raw text ``text``, without thinking, tool calls and markers."""


def render_question(sample: Sample) -> str:
    """Return the sample's question in VLMEvalKit's wording (``docs/conventions.md``).

    Multiple choice: the hint, the question, the options and a request to select one. Number and short text: the question
    and a request for a single word or phrase. Yes/no and free text: the question alone. A hint comes before the question.
    """
    if sample.kind == "multiple_choice" and sample.options:
        hint = f"Hint: {sample.hint}\n" if sample.hint else ""
        options = "".join(f"{letter}. {text}\n" for letter, text in sample.options.items())
        return f"{hint}Question: {sample.question}\nOptions:\n{options}Please select the correct answer from the options above. \n"
    question = f"Hint: {sample.hint}\n{sample.question}" if sample.hint else sample.question
    if sample.kind in ("short_text", "number"):
        return f"{question}\nAnswer the question using a single word or phrase."
    return question
