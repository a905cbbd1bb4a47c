"""GLM-4.1V and GLM-4.5V: ``<think>…</think>``, then ``<answer>…</answer>`` or text, its core marked by box tokens.

GLM-4.1V writes the answer tags, GLM-4.5V does not.  The box tokens are special ones, so engines that strip those leave
them out.
"""

from dataclasses import replace

from common.answers.markup import drop_box_tokens, drop_thinking, take_answer, take_box
from common.records import Sample
from workers.adapters.base import Prompt
from workers.adapters.chat import ChatAdapter


class Glm4vAdapter(ChatAdapter):
    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = take_answer(drop_thinking(text))
        return drop_box_tokens(answer) if sample.kind == "free_text" else take_box(answer)


class Glm4vDirectAdapter(Glm4vAdapter):
    """GLM-4.5V with its thinking switched off.  GLM-4.1V has no such switch."""

    def to_prompt(self, sample: Sample, *, images: int, reminder: str | None = None) -> Prompt:
        return replace(super().to_prompt(sample, images=images, reminder=reminder), template_options={"enable_thinking": False})
