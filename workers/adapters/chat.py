"""Models with a plain chat template: the images come before the question, and the whole text is the answer."""

from common.records import Sample
from workers.adapters.base import Prompt, render_question
from workers.engines.base import Message


class ChatAdapter:
    """The adapter for LLaVA, Gemini and every model that needs only its chat template."""

    def to_prompt(self, sample: Sample, *, images: int, reminder: str | None = None) -> Prompt:
        text = render_question(sample) + (f"\n{reminder}" if reminder else "")
        return Prompt((Message("user", text, images=images),), {})

    def to_prediction(self, sample: Sample, text: str) -> str:
        del sample
        return text.strip()
