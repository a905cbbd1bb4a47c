"""Thyme: thoughts, code for a sandbox and its output, then ``<answer>…</answer>``.

The code is dropped and never run: it was written by a model.  Upstream stops at each ``</code>`` and goes on with what
its sandbox returned; here the model is asked to do without.
"""

from common.answers.markup import drop_blocks, drop_thinking, take_answer, take_boxed
from common.records import Sample
from workers.adapters.base import Prompt
from workers.adapters.chat import ChatAdapter

_FORM = "Do not write code. Reason inside <think> and </think>, then give the final answer inside <answer> and </answer>."


class ThymeAdapter(ChatAdapter):
    def to_prompt(self, sample: Sample, *, images: int, reminder: str | None = None) -> Prompt:
        return super().to_prompt(sample, images=images, reminder=f"{_FORM}\n{reminder}" if reminder else _FORM)

    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = take_answer(drop_blocks(drop_thinking(text), "code", "sandbox_output"))
        return answer if sample.kind == "free_text" else take_boxed(answer)
