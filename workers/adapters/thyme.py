"""Thyme: thoughts, code for a sandbox and its output, then ``<answer>…</answer>``.

The code is dropped and never run: it was written by a model.
"""

from common.records import Sample
from workers.adapters.chat import ChatAdapter
from workers.adapters.markup import drop_blocks, drop_thinking, take_answer, take_boxed


class ThymeAdapter(ChatAdapter):
    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = take_answer(drop_blocks(drop_thinking(text), "code", "sandbox_output"))
        return answer if sample.kind == "free_text" else take_boxed(answer)
