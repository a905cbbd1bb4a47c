"""Text functions for all kinds of answers: normalize for comparison, split into words, find the statements of an answer."""

import re
import unicodedata
from itertools import zip_longest

from common.answers.numbers import CHINESE_NUMERALS, NUMBER_WORDS, canonicalize_number

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"

_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | str.maketrans("　。、“”‘’【】", " .,\"\"''[]")
_WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+(?:[-'’.][^\W{CJK}]+)*")
_NUMBER = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(%?)")
_BRACE = re.compile(r"(?<!\\)[{}]")
_HYPHENATED = re.compile("|".join(rf"\b{word}\b" for word in NUMBER_WORDS if "-" in word))
_ARTICLES = {"a", "an", "the"}

_CUE = r"(?<![A-Za-z])(?:answer|ans|(?:correct|right|best)\s+(?:option|choice|letter|one))\b(?:\s+(?:to|for)\s+[^.:：\n]{1,80}?)?"
_LINK = r"[\"'*]*\s*(?:(?:is|was|(?:would|should|must)\s+be)\b\s*[:：]?|[:：=])\s*"
_STATED = re.compile(rf"(?:{_CUE}{_LINK}|答案?(?:应该|应当|应)?(?:[是为选]|[:：])\s*[:：]?\s*)", re.IGNORECASE)
_FINAL = re.compile(rf"\bfinal\s+{_CUE}{_LINK}|最终(?:的)?答案(?:[是为选]|[:：])\s*[:：]?\s*", re.IGNORECASE)
_DOUBT = re.compile(
    r"(?:n't|\b(?:not|never|neither|nor|if|whether|unless|why|cannot|suppose)\b)(?:\W+\w+){0,5}\W*\Z", re.IGNORECASE
)
_CHINESE_DOUBT = re.compile(r"(?:不|不能|不该|不应该?|并非|如果|假如|若|是否)\s*(?:正确的?|认为)?\s*\Z")


def to_half_width(text: str) -> str:
    """Return the text with full-width letters, digits, brackets and Chinese punctuation replaced by ASCII."""
    return text.translate(_HALF_WIDTH)


def split_words(text: str) -> list[str]:
    """Return the words of a text. Each Chinese character (or kana) is a word, because Chinese is written without spaces."""
    return _WORD.findall(text)


def normalize_answer(text: str) -> str:
    """Return the text normalized for comparison. The function is idempotent.

    It applies NFKC, folds case, punctuation and space, drops articles, and makes number words and numbers canonical, as VQA's
    evaluation does. ``-5``, ``0.5``, ``50%``, ``1/2``, ``3:30`` and symbols such as ``+`` keep their meaning.
    """
    folded = _fold(text)
    while (again := _fold(folded)) != folded:  # rarely needed: a folded character may compose with the next one
        folded = again
    return folded


def find_boxed(text: str) -> tuple[str, ...]:
    r"""Return the content of every ``\boxed{…}``, in order. Ignore a box without its closing brace."""
    contents = []
    start = text.find("\\boxed{")
    while start >= 0:
        begin = start + len("\\boxed{")
        end = _find_brace(text, begin)
        if end is None:
            break
        contents.append(re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", text[begin:end]).strip())
        start = text.find("\\boxed{", end)
    return tuple(contents)


def find_final_statements(text: str) -> tuple[str, ...]:
    r"""Return the statements marked as final: each ``\boxed{…}``, and the line after "final answer is"."""
    return find_boxed(text) + _find_after(_FINAL, text)


def find_statements(text: str) -> tuple[str, ...]:
    """Return the rest of the line after each "answer is", "Answer:", "correct option is" or 答案是, but not after "if" or "not"."""
    return _find_after(_STATED, text)


def is_doubted(before: str) -> bool:
    """Return whether the words before a statement deny it or make it a condition ("I don't think the …")."""
    clause = re.split(r"[.,;:!?\n，。；：！？]", before[-120:])[-1]
    return bool(_DOUBT.search(clause) or _CHINESE_DOUBT.search(clause))


def _find_after(cue: re.Pattern[str], text: str) -> tuple[str, ...]:
    """Return the text after each cue, up to the line's end or the next cue. A repetitive text may have thousands of cues."""
    lines = []
    cues = list(cue.finditer(text))
    for match, following in zip_longest(cues, cues[1:]):
        rest = text[match.end() : following.start() if following else len(text)]
        if not is_doubted(text[max(0, match.start() - 120) : match.start()]):
            lines.append(rest.split("\n", 1)[0].strip())
    return tuple(dict.fromkeys(lines))


def _find_brace(text: str, begin: int) -> int | None:
    depth = 1
    for brace in _BRACE.finditer(text, begin):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return brace.start()
    return None


def _fold(text: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = text.replace("\u2044", "/").replace("\u2212", "-").replace("’", "'")
    text = _HYPHENATED.sub(lambda match: NUMBER_WORDS[match[0]], text)
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))|(?<=\w)'(?=\w)", "", text)
    text = re.sub(r"(?<![^\s(])(-?)\.(?=[0-9])", r"\g<1>0.", text)
    tokens = [_fold_token(token) for token in "".join(_fold_marks(text)).split()]
    kept = [token for token in tokens if token not in _ARTICLES] or tokens
    return CHINESE_NUMERALS.get(kept[0], kept[0]) if len(kept) == 1 else " ".join(kept)


def _fold_marks(text: str) -> list[str]:
    """Return the characters, with punctuation that is not part of a number replaced by spaces."""
    folded = []
    for place, mark in enumerate(text):
        if mark not in "`$" and unicodedata.category(mark)[0] not in "PC":
            folded.append(mark)
            continue
        before, after = text[place - 1 : place], text[place + 1 : place + 2]
        in_number = before.isdecimal() and after.isdecimal() and mark in ".:/-"
        is_sign = mark == "-" and after.isdecimal() and not before.strip("([$ ")
        is_percent = mark == "%" and before.isdecimal()
        folded.append(mark if in_number or is_sign or is_percent else " ")
    return folded


def _fold_token(token: str) -> str:
    match = _NUMBER.fullmatch(token)
    if match:
        return canonicalize_number(match[1], match[2], match[3] or "") + match[4]
    return NUMBER_WORDS.get(token, token)
