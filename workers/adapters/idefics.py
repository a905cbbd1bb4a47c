"""Idefics2, Idefics3 and SmolVLM: plain text.

Some engines do not strip the end-of-utterance token. Text after this token is a further turn that the model invented.
"""

from common.records import Sample
from workers.adapters.chat import ChatAdapter

_END_OF_UTTERANCE = "<end_of_utterance>"


class IdeficsAdapter(ChatAdapter):
    """Returns the text before the first end-of-utterance token."""

    def to_prediction(self, sample: Sample, text: str) -> str:
        del sample
        return text.partition(_END_OF_UTTERANCE)[0].strip()
