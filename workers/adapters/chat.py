"""Plain chat-template models: images first, then the prompt; the answer is the text as it stands."""

from common.records import Sample
from workers.adapters.base import Prompt, ask
from workers.engines.base import Message


class ChatAdapter:
    """The adapter for LLaVA, Gemini and every model whose chat template says all there is to say."""

    def to_prompt(self, sample: Sample, *, images: int, reminder: str | None = None) -> Prompt:
        text = ask(sample) + (f"\n{reminder}" if reminder else "")
        return Prompt((Message("user", text, images=images),), {})

    def to_prediction(self, sample: Sample, text: str) -> str:
        del sample
        return text.strip()
