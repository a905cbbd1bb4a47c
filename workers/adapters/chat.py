"""Models with a plain chat template. They get the messages as rendered, and their whole text is the answer."""

from common.records import Sample
from workers.adapters.base import Prompt, add_to_question
from workers.engines.base import Message


class ChatAdapter:
    """The adapter for LLaVA, Gemini and every model that needs only its chat template."""

    def to_prompt(self, sample: Sample, messages: tuple[Message, ...], *, reminder: str | None = None) -> Prompt:
        del sample
        return Prompt(add_to_question(messages, reminder), {})

    def to_prediction(self, sample: Sample, text: str) -> str:
        del sample
        return text.strip()
