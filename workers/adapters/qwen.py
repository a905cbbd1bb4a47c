"""Qwen2.5-VL and Qwen3-VL: thoughts are dropped; a short answer may come in LaTeX's box."""

from common.answers.markup import drop_thinking, take_boxed
from common.records import Sample
from workers.adapters.chat import ChatAdapter


class QwenAdapter(ChatAdapter):
    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = drop_thinking(text)
        return answer if sample.kind == "free_text" else take_boxed(answer)
