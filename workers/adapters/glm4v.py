"""GLM-4.1V and GLM-4.5V: ``<think>…</think>``, then ``<answer>…</answer>`` or plain text, with box tokens around the short answer.

GLM-4.1V writes the answer tags, GLM-4.5V does not. The box tokens are special tokens, so they are missing from the text of an
engine that strips special tokens.
"""

from dataclasses import replace

from common.answers.markup import drop_box_tokens, drop_thinking, take_answer, take_box
from common.records import Sample
from workers.adapters.base import Prompt
from workers.adapters.chat import ChatAdapter
from workers.engines.base import Message


class Glm4vAdapter(ChatAdapter):
    """Drops the thinking and returns the boxed answer. For free text, drops only the thinking and the box tokens."""

    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = take_answer(drop_thinking(text))
        return drop_box_tokens(answer) if sample.kind == "free_text" else take_box(answer)


class Glm4vDirectAdapter(Glm4vAdapter):
    """GLM-4.5V with thinking disabled in the chat template. GLM-4.1V does not have this option."""

    def to_prompt(self, sample: Sample, messages: tuple[Message, ...], *, reminder: str | None = None) -> Prompt:
        return replace(super().to_prompt(sample, messages, reminder=reminder), template_options={"enable_thinking": False})
