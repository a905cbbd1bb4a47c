"""InternVL 2 to 3.5: plain text, after thoughts where it is asked for them; a short answer may come in LaTeX's box."""

from dataclasses import replace

from common.answers.markup import drop_thinking, take_boxed
from common.records import Sample
from workers.adapters.base import Prompt
from workers.adapters.chat import ChatAdapter
from workers.engines.base import Message

_THINK_FIRST = (
    "First analyse the question step by step, all of it inside <think> and </think>. "
    "Then give, on a new line, a short and direct answer that can stand on its own."
)


class InternVLAdapter(ChatAdapter):
    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = drop_thinking(text)
        return answer if sample.kind == "free_text" else take_boxed(answer)


class InternVLThinkingAdapter(InternVLAdapter):
    """InternVL asked to think: its family has no switch in the chat template, but knows such a system prompt (R1 style)."""

    def to_prompt(self, sample: Sample, *, images: int, reminder: str | None = None) -> Prompt:
        prompt = super().to_prompt(sample, images=images, reminder=reminder)
        return replace(prompt, messages=(Message("system", _THINK_FIRST), *prompt.messages))
