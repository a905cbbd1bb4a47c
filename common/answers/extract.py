"""Extract the answer that a text states, by strict rules and without guesses.

If the text is unclear or states two different answers, the result is ``None``. Reports count these results. The rules for each
kind of question are in this module, ``letters.py`` and ``numbers.py``. Implement the less strict rules of VLMEvalKit in a scorer.
"""

import re
from collections.abc import Callable, Mapping

from common.answers.letters import read_letters
from common.answers.numbers import read_numbers
from common.answers.text import (
    CJK,
    find_boxed,
    find_final_statements,
    find_statements,
    normalize_answer,
    split_words,
    to_half_width,
)
from common.records import Kind

__all__ = ["extract_answer", "find_boxed", "normalize_answer", "split_words"]

SHORT_TEXT_WORDS = 10

_ALONE = {"true": "Yes", "correct": "Yes", "y": "Yes", "false": "No", "incorrect": "No", "n": "No"}
_CHINESE_YES = ("是", "是的", "对", "对的", "正确", "没错", "有", "有的", "可以", "能")
_CHINESE_NO = ("否", "不", "不是", "不是的", "不对", "不正确", "错", "错误", "错的", "没有", "无", "不可以", "不能")
_CHINESE = dict.fromkeys(_CHINESE_YES, "Yes") | dict.fromkeys(_CHINESE_NO, "No")
# "No" is an answer if its clause ends after it, or if one of these words follows. In "no fracture" it is a determiner.
_NO_CLAUSE = r"(?=\s*(?:[.,;:!)\"'\n-]|\Z)|\s+(?:it|there|the|this|that|these|those|they|he|she|i|we|because|since|not)\b)"
_ENGLISH = re.compile(rf"(?<![A-Za-z-])(?:(yes|yeah|yep)(?![A-Za-z-])|(no|nope)(?![A-Za-z]){_NO_CLAUSE})", re.IGNORECASE)
_UNSURE = re.compile(
    r"\b(?:not (?:\w+ )?(?:sure|certain|clear)|unsure|uncertain|unclear|hard to (?:say|tell)|(?:cannot|can't|unable to) (?:\w+ )?"
    r"(?:tell|determine|say|see)|yes or no|not (?:yes|no))\b|不确定|不清楚|不知道|无法|难以",
    re.IGNORECASE,
)
_WRAPPING = (
    ("**", "**"),
    ("__", "__"),
    ("`", "`"),
    ("$", "$"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("‘", "’"),
    ("「", "」"),
    ("《", "》"),
)


def extract_answer(kind: Kind, text: str, options: Mapping[str, str]) -> str | None:
    """Return the answer that ``text`` states, or ``None`` if it does not state exactly one answer.

    multiple_choice: the upper-case letter of an option. yes_no: ``Yes`` or ``No``, for an answer in English or Chinese.
    number: canonical number text (``1234.5``, ``-3``, ``50%``). short_text: the text without quotes, emphasis and final period,
    at most ``SHORT_TEXT_WORDS`` words (two Chinese characters count as one word). free_text: the trimmed text.
    """
    if kind == "multiple_choice":
        return _settle(_read_option(text, options))
    if kind == "yes_no":
        return _settle(_read_strongest(text, _read_yes_no))
    if kind == "number":
        return _settle(_read_strongest(text, _read_number))
    if kind == "short_text":
        return _settle(_read_short_text(text))
    return text.strip() or None


def _settle(readings: set[str | None]) -> str | None:
    return readings.pop() if len(readings) == 1 else None


def _read_strongest(text: str, read: Callable[[str], set[str | None]]) -> set[str | None]:
    """Return the readings of the final statements, else of the answer statements, else of the whole text."""
    text = to_half_width(text)
    for statements in (find_final_statements(text), find_statements(text), (text,)):
        if readings := set().union(*map(read, statements)):
            return readings
    return set()


def _read_option(text: str, options: Mapping[str, str]) -> set[str | None]:
    if readings := read_letters(text, options):
        return readings
    answers = {_settle(_read_yes_no(option)): letter.upper() for letter, option in options.items()}
    if {"Yes", "No"} <= answers.keys():
        return {answers[answer] for answer in _read_strongest(text, _read_yes_no) if answer}
    return set()


def _read_yes_no(text: str) -> set[str | None]:
    bare = text.strip(" \t\n*_`\"'.!()").lower()
    if bare in _ALONE:
        return {_ALONE[bare]}
    text = text.strip()
    clauses = re.split(r"[\s,.!;:()*\"']+", text)
    readings: set[str | None] = {_CHINESE[clause] for clause in clauses if clause in _CHINESE}
    matches = list(_ENGLISH.finditer(re.sub(r"[*_`\"(]", "", text)))
    readings |= {"Yes" if match[1] else "No" for match in matches}
    leads_with_yes = bool(matches) and matches[0][1] is not None and matches[0].start() == 0
    return {None} if _UNSURE.search(text) and not leads_with_yes else readings


def _read_number(text: str) -> set[str | None]:
    """Read the numbers of a text. If it has several numbers and one equals sign, read only the numbers after the sign."""
    readings = read_numbers(text)
    if len(readings) > 1 and text.count("=") == 1:
        return read_numbers(text.partition("=")[2])
    return readings


def _read_short_text(text: str) -> set[str | None]:
    """Read the answer statements, or the whole text without a statement. Read only the first sentence of a long statement."""
    statements = find_final_statements(text) or find_statements(text)
    shorts = {_shorten(statement) for statement in statements} if statements else {_unwrap(text)}
    return {short for short in shorts if short and _count_short(short) <= SHORT_TEXT_WORDS}


def _shorten(statement: str) -> str:
    short = _unwrap(statement)
    if _count_short(short) <= SHORT_TEXT_WORDS:
        return short
    return _unwrap(re.split(r"(?<=[.!?;])\s|(?<=[。！？；])", short, maxsplit=1)[0])


def _unwrap(text: str) -> str:
    """Return the text on one line, without enclosing quotes and emphasis and without its final period."""
    text = " ".join(text.split())
    for opening, closing in _WRAPPING:
        is_wrapped = len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing)
        if is_wrapped and opening not in text[len(opening) : -len(closing)]:
            return _unwrap(text[len(opening) : -len(closing)])
    if text.endswith((".", "。")) and not re.search(r"(?:\.\.|\b[A-Za-z]\.[A-Za-z]\.)$", text):
        return _unwrap(text[:-1])
    return text


def _count_short(text: str) -> float:
    words = split_words(text)
    return sum(0.5 if re.match(f"[{CJK}]", word) else 1 for word in words)
