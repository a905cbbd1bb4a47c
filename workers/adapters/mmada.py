"""MMaDA: plain text, sometimes with its image placeholder echoed; a bare ``<image>`` says nothing."""

from common.answers.markup import drop_image_tokens, drop_thinking, take_boxed
from common.records import Sample
from workers.adapters.chat import ChatAdapter


class MmadaAdapter(ChatAdapter):
    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = drop_image_tokens(drop_thinking(text))
        return answer if sample.kind == "free_text" else take_boxed(answer)
