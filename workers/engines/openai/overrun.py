"""Recognize the errors of several servers for requests that are longer than the model's context. No I/O."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from common.errors import SampleError
from workers.engines.context import refuse_prompt

# A longer message is not about one request.
_MAX_MESSAGE_CHARACTERS = 4000

_CODES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length", "ContextWindowExceededError"}
)
_NUMBER = r"(\d[\d,]*)"

# The messages of OpenAI and of servers that copy them (vLLM, DeepSeek, OpenRouter), vLLM's engine, SGLang,
# text-generation-inference, Google, Anthropic, Mistral and llama-cpp-python.
_CONTEXT = re.compile(
    "|".join((
        rf"maximum context length (?:is|of) {_NUMBER}",
        rf"context length is only {_NUMBER} tokens",
        rf"maximum model length of {_NUMBER}",
        rf"maximum allowed length \({_NUMBER} tokens",
        rf"context length \({_NUMBER} tokens",
        rf"max_new_tokens`? must be <= {_NUMBER}",
        rf"inputs`? must have less than {_NUMBER} tokens",
        rf"maximum number of tokens allowed \({_NUMBER}",
        rf"tokens > {_NUMBER} maximum",
        rf"with {_NUMBER} maximum context length",
        rf"exceed context window of {_NUMBER}",
    ))
)  # fmt: skip
_PROMPT = re.compile(
    "|".join((
        # "the upper bound for 2048 input tokens" is about the context
        rf"(?<!bound for )\b{_NUMBER} (?:in the messages|in your prompt|of text input|input tokens|tokens from the input)",
        rf"{_NUMBER} `?inputs`? tokens",
        rf"resulted in {_NUMBER} tokens",
        rf"prompt \(length {_NUMBER}\)",
        rf"[Ii]nput (?:length )?\({_NUMBER} tokens",
        rf"input token count \({_NUMBER}\)",
        rf"too long: {_NUMBER} tokens",
        rf"[Pp]rompt contains {_NUMBER} tokens",
        rf"Requested tokens \({_NUMBER}\)",
        rf"Given: {_NUMBER}",
    ))
)  # fmt: skip
_LEAST = "at least "


class TooLong(SampleError):
    """The request is longer than the context. ``room`` is the number of tokens left for ``max_tokens``, if it is known."""

    code = "too_long"

    def __init__(self, message: str, room: int | None) -> None:
        super().__init__(TooLong.code, message)
        self.room = room


def classify_overrun(error: Mapping[str, Any], codes: Collection[str], text: str, quoted: str) -> TooLong | None:
    """Return ``TooLong`` if ``text``, the message of ``error``, is about the length of the request, else ``None``.

    ``quoted`` is the text for the user.
    """
    text = text[:_MAX_MESSAGE_CHARACTERS]
    found = _CONTEXT.search(text)
    if not found and not _CODES.intersection(codes):
        return None
    context, prompt = _read_field(error, "n_ctx"), _read_field(error, "n_prompt_tokens")
    least = ""
    if found:
        context = _read_match(found)
    if stated := _PROMPT.search(text):
        prompt = _read_match(stated)
        least = _LEAST if text[: stated.start()].endswith(_LEAST) else ""
    if context is None or prompt is None:
        return TooLong(f"the prompt is longer than the context of the model; shorten the text or the images ({quoted})", None)
    if prompt >= context:
        return TooLong(f"{refuse_prompt(f'{least}{prompt}', context)} ({quoted})", None)
    message = (
        f"the prompt has {least}{prompt} tokens, but the context of the model has {context}, which leaves too few for max_tokens; "
        f"lower generation.max_tokens or shorten the prompt ({quoted})"
    )
    return TooLong(message, None if least else context - prompt)


def _read_field(error: Mapping[str, Any], name: str) -> int | None:
    number = error.get(name)
    return number if isinstance(number, int) else None


def _read_match(found: re.Match[str]) -> int:
    return int(next(group for group in found.groups() if group).replace(",", ""))
