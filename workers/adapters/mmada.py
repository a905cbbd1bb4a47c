"""MMaDA: plain text, which may echo the image placeholder. An answer that is only ``<image>`` is an empty answer."""

from common.answers.markup import drop_image_tokens, drop_thinking, take_boxed
from common.records import Sample
from workers.adapters.chat import ChatAdapter


class MmadaAdapter(ChatAdapter):
    """Drops the thinking and the image placeholders. An answer other than a free text is taken out of its LaTeX box."""

    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = drop_image_tokens(drop_thinking(text))
        return answer if sample.kind == "free_text" else take_boxed(answer)
