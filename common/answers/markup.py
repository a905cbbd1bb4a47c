"""Text functions that the adapters of model families share. All functions are pure and return trimmed text.

A block without a closing tag extends to the end of the text, because ``max_tokens`` has cut the text.
"""

import re

from common.answers.extract import find_boxed

_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_END = re.compile(r"</answer>", re.IGNORECASE)
_BOX, _BOX_END = "<|begin_of_box|>", "<|end_of_box|>"
_IMAGE_TOKEN = re.compile(
    r"</?(?:image|img)>|<\|(?:image|image_pad|video_pad|vision_start|vision_end|begin_of_image|end_of_image)\|>|<IMG_CONTEXT>"
    r"|<fake_token_around_image>|<global-img>|<row_\d+_col_\d+>",
    re.IGNORECASE,
)


def drop_thinking(text: str) -> str:
    """Remove the thinking: ``<think>…</think>``, all text before a lone ``</think>``, all text after an unclosed ``<think>``.

    A model writes a lone ``</think>`` if its prompt already opens the block. If its text is cut before that tag, the thinking
    cannot be separated from the answer. The validator ``finished`` rejects such a text.
    """
    return _THOUGHT_END.split(_THINKING.sub("", text))[-1].strip()


def drop_blocks(text: str, *tags: str) -> str:
    """Return the text without ``<tag>…</tag>`` for each of ``tags``."""
    for tag in tags:
        text = re.sub(rf"<{tag}>.*?(?:</{tag}>|\Z)", "", text, flags=re.DOTALL | re.IGNORECASE)
    return text.strip()


def take_answer(text: str) -> str:
    """Return the content of the last ``<answer>``, or the whole text if it has no ``<answer>``."""
    last = _ANSWER.split(text)[-1]
    return _ANSWER_END.split(last)[0].strip()


def take_box(text: str) -> str:
    """Return the content of the last ``<|begin_of_box|>…<|end_of_box|>``, or the whole text if it has no such box."""
    return text.rpartition(_BOX)[2].partition(_BOX_END)[0].strip()


def drop_box_tokens(text: str) -> str:
    """Return the text without the box tokens. Keep the content of the boxes."""
    return text.replace(_BOX, "").replace(_BOX_END, "").strip()


def take_boxed(text: str) -> str:
    r"""Return the content of ``\boxed{…}``, or the whole text if it has no box or boxes with different contents."""
    contents = set(find_boxed(text))
    return contents.pop() if len(contents) == 1 else text.strip()


def has_image_token(text: str) -> bool:
    """Return whether the text contains an image placeholder."""
    return _IMAGE_TOKEN.search(text) is not None


def drop_image_tokens(text: str) -> str:
    """Return the text without image placeholders."""
    return _IMAGE_TOKEN.sub("", text).strip()
