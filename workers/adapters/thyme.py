"""Thyme: thinking, code for a sandbox, the output of the code, then ``<answer>…</answer>``.

The adapter drops the code and never runs it, because a model wrote it. The upstream implementation stops at each ``</code>``,
runs the code in its sandbox and continues with the output. Here the prompt asks the model not to write code.
"""

from common.answers.markup import drop_blocks, drop_thinking, take_answer, take_boxed
from common.records import Sample
from workers.adapters.base import Prompt
from workers.adapters.chat import ChatAdapter
from workers.engines.base import Message

_ANSWER_FORMAT = "Do not write code. Reason inside <think> and </think>, then give the final answer inside <answer> and </answer>."


class ThymeAdapter(ChatAdapter):
    """Asks for an answer without code, and returns the content of ``<answer>``."""

    def to_prompt(self, sample: Sample, messages: tuple[Message, ...], *, reminder: str | None = None) -> Prompt:
        return super().to_prompt(sample, messages, reminder=f"{_ANSWER_FORMAT}\n{reminder}" if reminder else _ANSWER_FORMAT)

    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = take_answer(drop_blocks(drop_thinking(text), "code", "sandbox_output"))
        return answer if sample.kind == "free_text" else take_boxed(answer)
