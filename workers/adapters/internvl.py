"""InternVL 2 to 3.5: plain text, after thoughts where thinking is switched on."""

from common.records import Sample
from workers.adapters.chat import ChatAdapter
from workers.adapters.markup import drop_thinking


class InternVLAdapter(ChatAdapter):
    def to_prediction(self, sample: Sample, text: str) -> str:
        del sample
        return drop_thinking(text)
