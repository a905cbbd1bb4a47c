"""Reminders of the expected form of an answer, which a retry adds to the prompt, in English or Chinese as the question."""

import re

from common.records import Sample

_BY_KIND = {
    "multiple_choice": ("Answer with the letter of one option only{letters}.", "请只回答一个选项字母{letters}。"),
    "yes_no": ("Answer with Yes or No only.", "请只回答“是”或“否”。"),
    "number": ("Answer with a single number only.", "请只回答一个数字。"),
    "short_text": ("Answer with a single word or a short phrase only.", "请只用一个词或短语回答。"),
    "free_text": ("Answer the question directly, in plain text.", "请用文字直接回答问题。"),
}
_JSON = ("Answer with valid JSON only.", "请只输出有效的 JSON。")
_BRIEF = (" Be brief.", "请尽量简短。")


def word_reminder(sample: Sample, violations: tuple[str, ...]) -> str:
    """Return the reminder for the attempt after an attempt with ``violations``."""
    language = 1 if is_chinese(sample.question) else 0
    if "json_schema" in violations:
        return _JSON[language]
    letters = ", ".join(sample.options)
    listed = (f": {letters}", f"（{letters}）")[language] if letters else ""
    brief = _BRIEF[language] if "max_words" in violations else ""
    return _BY_KIND[sample.kind][language].format(letters=listed) + brief


def is_chinese(question: str) -> bool:
    """Return whether a question has at least as many Chinese characters as words of Latin letters, and no kana."""
    characters = len(re.findall(r"[\u4e00-\u9fff]", question))
    words = len(re.findall(r"[A-Za-z]{2,}", question))
    return characters >= max(words, 1) and not re.search(r"[\u3040-\u30ff]", question)
