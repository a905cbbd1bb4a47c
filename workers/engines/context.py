"""The context of a model: the number of tokens that a prompt and its answer share. Prompts that are too long are refused.

An engine refuses a prompt that fills the context, because there is no room for an answer. It caps ``max_tokens`` at the tokens
that remain.
"""

from collections.abc import Callable

from common.errors import SampleError
from workers.engines.base import Request

# A text of up to this length is tokenized in one piece, within milliseconds.
PIECE_CHARACTERS = 65_536
# A text with more tokens than this many contexts is refused. The tokens of pieces and of the whole text differ only at the cuts.
_CERTAIN_CONTEXTS = 2


def has_long_text(request: Request) -> bool:
    """Return whether the request's text takes long to render and to tokenize."""
    return sum(len(message.text) for message in request.messages) > PIECE_CHARACTERS


def check_prompt_tokens(prompt_tokens: int, context_tokens: int) -> None:
    """Raise ``SampleError`` (``too_long``) if the context has no room for a token after the prompt."""
    if prompt_tokens >= context_tokens:
        raise refuse_prompt(f"{prompt_tokens}", context_tokens)


def check_long_text(text: str, context_tokens: int, count_tokens: Callable[[str], int]) -> None:
    """Raise ``SampleError`` (``too_long``) if the text has more than about twice as many tokens as the context.

    The text is tokenized in pieces, and only up to that many tokens, so that a text of any length takes bounded time and memory.
    A text that passes may still be too long.
    """
    counted = 0
    for start in range(0, len(text), PIECE_CHARACTERS):
        piece = text[start : start + PIECE_CHARACTERS]
        counted += count_tokens(piece)
        if counted > _CERTAIN_CONTEXTS * context_tokens:
            raise refuse_prompt(f"about {counted * len(text) // (start + len(piece))}", context_tokens)


def refuse_prompt(prompt_tokens: str, context_tokens: int) -> SampleError:
    """Return the error for a prompt that is too long. ``prompt_tokens`` is a number, or "about" or "at least" a number."""
    return SampleError(
        "too_long",
        f"the prompt has {prompt_tokens} tokens, but the context of the model has {context_tokens}; expected a prompt shorter than "
        "the context: shorten the text, use fewer or smaller images, or a model with a longer context",
    )
