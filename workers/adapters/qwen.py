r"""Qwen2.5-VL and Qwen3-VL: plain text, after the thinking of thinking models. A short answer may be in LaTeX's ``\boxed``."""

from common.answers.markup import drop_thinking, take_boxed
from common.records import Sample
from workers.adapters.chat import ChatAdapter


class QwenAdapter(ChatAdapter):
    """Drops the thinking. Removes the LaTeX box from an answer that is not free text."""

    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = drop_thinking(text)
        return answer if sample.kind == "free_text" else take_boxed(answer)
