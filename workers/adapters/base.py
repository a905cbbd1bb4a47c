"""The adapter interface, and the changes to messages that model families share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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

    def to_prompt(self, sample: Sample, messages: tuple[Message, ...], *, reminder: str | None = None) -> Prompt:
        """Return the conversation for the sample: ``messages``, and the additions that this model family needs.

        A number in a message is the index of an image. A video is several consecutive images, one for each frame. A retry adds
        ``reminder``, a description of the expected answer format, to the last question.
        """

    def to_prediction(self, sample: Sample, text: str) -> str:
        """Return the answer in the raw text ``text``, without thinking, tool calls and markers."""


def add_to_question(messages: tuple[Message, ...], text: str | None) -> tuple[Message, ...]:
    """Return the messages with ``text`` on a new line at the end of the last user message."""
    last = max((number for number, message in enumerate(messages) if message.role == "user"), default=None)
    if not text or last is None:
        return messages
    *before, end = messages[last].content
    content = (*before, f"{end}\n{text}") if isinstance(end, str) else (*before, end, f"\n{text}")
    return (*messages[:last], replace(messages[last], content=content), *messages[last + 1 :])


def add_to_system(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """Return the messages with ``text`` at the end of the system message, after an empty line. Add that message if needed."""
    if messages and messages[0].role == "system":
        return (replace(messages[0], content=(*messages[0].content, f"\n\n{text}")), *messages[1:])
    return (Message("system", (text,)), *messages)
