"""What an adapter is, and the prompts that most families share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from common.records import Sample
from workers.engines.base import Message


@dataclass(frozen=True, slots=True)
class Prompt:
    """The conversation for one sample, without its images: the worker adds them, and the settings, to make a request."""

    messages: tuple[Message, ...]
    template_options: Mapping[str, Any]


class Adapter(Protocol):
    """One model family's way of being asked and of answering."""

    def to_prompt(self, sample: Sample, *, images: int, reminder: str | None = None) -> Prompt:
        """Return the conversation that asks ``sample``; a retry adds ``reminder``, the expected form in words.

        ``images`` is how many images its media came to: a video is shown as several.
        """

    def to_prediction(self, sample: Sample, text: str) -> str:
        """Return what the raw text says, without thinking, tool calls and markers."""


def ask(sample: Sample) -> str:
    """Return a sample's prompt as VLMEvalKit words it (``docs/conventions.md``).

    Multiple choice lists hint, question, options and asks to select; number and short text ask for a single word or
    phrase; yes/no and free text are the question alone.
    """
    if sample.kind == "multiple_choice" and sample.options:
        hint = f"Hint: {sample.hint}\n" if sample.hint else ""
        options = "".join(f"{letter}. {text}\n" for letter, text in sample.options.items())
        return f"{hint}Question: {sample.question}\nOptions:\n{options}Please select the correct answer from the options above. \n"
    question = f"Hint: {sample.hint}\n{sample.question}" if sample.hint else sample.question
    if sample.kind in ("short_text", "number"):
        return f"{question}\nAnswer the question using a single word or phrase."
    return question
