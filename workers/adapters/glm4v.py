"""GLM-4.1V and GLM-4.5V: ``<think>…</think>``, then ``<answer>…</answer>`` or text, its core marked by box tokens."""

from common.records import Sample
from workers.adapters.chat import ChatAdapter
from workers.adapters.markup import drop_box_tokens, drop_thinking, take_answer, take_box


class Glm4vAdapter(ChatAdapter):
    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = take_answer(drop_thinking(text))
        return drop_box_tokens(answer) if sample.kind == "free_text" else take_box(answer)
