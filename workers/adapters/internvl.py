r"""InternVL 2 to 3.5: plain text, after the thinking if the prompt requests it. A short answer may be in LaTeX's ``\boxed``."""

from common.answers.markup import drop_thinking, take_boxed
from common.records import Sample
from workers.adapters.base import Prompt, add_to_system
from workers.adapters.chat import ChatAdapter
from workers.engines.base import Message

_THINKING_PROMPT = (
    "First analyse the question step by step, all of it inside <think> and </think>. "
    "Then give, on a new line, a short and direct answer that can stand on its own."
)


class InternVLAdapter(ChatAdapter):
    """Drops the thinking. Removes the LaTeX box from an answer that is not free text."""

    def to_prediction(self, sample: Sample, text: str) -> str:
        answer = drop_thinking(text)
        return answer if sample.kind == "free_text" else take_boxed(answer)


class InternVLThinkingAdapter(InternVLAdapter):
    """InternVL with a system prompt that requests thinking, in the style of R1.

    The chat template of this family does not have a thinking option, but the models support system prompts of this style.
    """

    def to_prompt(self, sample: Sample, messages: tuple[Message, ...], *, reminder: str | None = None) -> Prompt:
        return super().to_prompt(sample, add_to_system(messages, _THINKING_PROMPT), reminder=reminder)
