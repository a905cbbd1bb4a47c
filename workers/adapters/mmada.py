"""MMaDA: plain text, which may echo the image placeholder. An answer that is only ``<image>`` counts as empty."""

from common.answers.markup import drop_image_tokens, drop_thinking, take_boxed
from common.records import Sample
from workers.adapters.chat import ChatAdapter


class MmadaAdapter(ChatAdapter):
    """Drops the thinking and the image placeholders. Removes the LaTeX box from an answer that is not free text."""

    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = drop_image_tokens(drop_thinking(text))
        return answer if sample.kind == "free_text" else take_boxed(answer)
