"""Idefics2, Idefics3 and SmolVLM: plain text; where the end token is not stripped, what follows it is the next turn, made up."""

from common.records import Sample
from workers.adapters.chat import ChatAdapter

_END = "<end_of_utterance>"


class IdeficsAdapter(ChatAdapter):
    def to_prediction(self, sample: Sample, text: str) -> str:
        del sample
        return text.partition(_END)[0].strip()
