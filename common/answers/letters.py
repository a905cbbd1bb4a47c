r"""Read the option letter that an answer to a multiple-choice question states.

The module tries these forms in order and uses the first form that matches. If that form states two different letters, the text
does not have an answer. The forms are:

1. the whole text is a letter, or one option's text;
2. a final statement: ``\boxed{B}``, "the final answer is B";
3. a statement: "Answer: B", "the answer is B", "option B is correct", "I choose B", 答案是B, 选B;
4. a letter at the start of the first line ("B. a red circle"), or a last line that is only a letter;
5. one option's text in a short sentence without a negation.

The text around a letter determines whether the letter states an option. "A dog", "A-frame", "A.I." and "vitamin B" do not.
"""

import re
from collections.abc import Callable, Mapping

from common.answers.text import (
    CJK,
    find_final_statements,
    find_statements,
    is_doubted,
    normalize_answer,
    to_half_width,
)

_MAX_WORDS_AROUND = 12

_MORE = r"(?:\s*(?:[,/&;、+]|,?\s*(?:and|or|nor)\b|和|或者?|与|及|以及)\s*(?:option\s*)?)"
_FOLLOW = (
    r"(?![-'][A-Za-z])(?!\.[A-Za-z](?:\.|\Z))(?!\.[0-9])"
    rf"(?=[)\]\"'.,;:!\n(—–]|\s*\Z|\s*\n|\s+[(—–-]|\s+(?:because|since|as|for|which|based|due|given|according)\b"
    rf"|\s*(?:选项|项|因为|由于|是因为|是?正确|是?对的)|{_MORE}\(?[A-Z](?![A-Za-z]))"
)
_LETTER = rf"(?:[(\[]([A-Z])[)\]]|[\"']?(?<![A-Za-z0-9])([A-Z])(?![A-Za-z0-9]){_FOLLOW})"
_LEADING = re.compile(rf"\s*(?i:option|choice|选项)?\s*{_LETTER}")
_NEXT = re.compile(rf"[)\]\"'.]?{_MORE}{_LETTER}")
_INLINE = re.compile(r"(?<![A-Za-z0-9])\(?([A-Z])\)|(?<!\S)([A-Z])[.:](?=\s+\w)")
_ALONE = re.compile(r"[\s\"'(\[{<.,:;!)\]}>-]*([A-Za-z])[\s\"'(\[{<.,:;!)\]}>-]*")
_DENIED = re.compile(
    r"\W*(?:(?:is|was|are)\s+(?:not|wrong|incorrect|false)\b|(?:wrong|incorrect)\b|不正确|错误|不对)", re.IGNORECASE
)
_JUDGED = re.compile(
    r"(?<![A-Za-z0-9])[(\[]?([A-Z])[)\]]?\s*(?:选项|项)?\s*"
    r"(?:(?:is|would be|seems)\s+(?:the\s+)?(?:(?:most|best|only|more)\s+)?(?:likely\s+|appropriate\s+|accurate\s+)?"
    r"(?:correct|right|best|answer|appropriate|accurate|suitable)(?=\s*(?:\Z|[.,;:!)\n]|\b(?:because|since|as|answer|option|choice|one)\b))"
    r"|是?正确|是?对的)"
)
_CHOSEN = re.compile(
    r"(?:\b(?i:choose|chose|select|pick|go(?:ing)? with|it is|it's|(?:should|must|would) be|answer|therefore|i'd say)\s+"
    rf"(?:(?i:option|choice|answer|letter)\s+)?|选项是|选项为|应该是|应为|选择|选)\s*(?:选项)?\s*{_LETTER}"
)

Readings = set[str | None]


def read_letters(text: str, options: Mapping[str, str]) -> Readings:
    """Return the letters that the first matching form in ``text`` states, with ``None`` for a letter that is not an option.

    If ``options`` is empty, because the options may be in the image, every letter from A to Z is an option.
    """
    text = _clean(text)
    texts = {letter.upper(): normalize_answer(option) for letter, option in options.items()}
    forms: tuple[Callable[[], Readings], ...] = (
        lambda: _read_whole(text, texts),
        lambda: _read_statements(find_final_statements(text), texts),
        lambda: _read_statements(find_statements(text), texts) | _read_chosen(text),
        lambda: _read_lines(text, texts),
        lambda: _read_option_text(text, texts),
    )
    found = next(filter(None, (form() for form in forms)), set())
    return {letter if letter in texts or not texts else None for letter in found}


def _clean(text: str) -> str:
    text = re.sub(r"[*`$]|__|</?(?:answer|s|b)>", "", to_half_width(text)).replace("’", "'")
    return re.sub(r"^[ \t>#•-]+", "", text, flags=re.MULTILINE).strip()


def _read_whole(text: str, texts: Mapping[str, str]) -> Readings:
    """Read a text that is only a letter, in upper or lower case, or the text of one option."""
    if alone := _ALONE.fullmatch(text):
        return {alone[1].upper()}
    folded = normalize_answer(text)
    return {letter for letter, option in texts.items() if option == folded} if folded else set()


def _read_statements(statements: tuple[str, ...], texts: Mapping[str, str]) -> Readings:
    readings: Readings = set()
    for statement in statements:
        sentence = re.split(r"(?<=[.!?])\s", statement, maxsplit=1)[0]
        readings |= (
            _read_whole(statement, texts)
            or _read_leading(statement, texts)
            or _read_whole(sentence, texts)
            or _read_option_text(sentence, texts)
        )
    return readings


def _read_leading(line: str, texts: Mapping[str, str]) -> Readings:
    """Read the letter (or the list of letters) at the start of a line, and the options that the text after it names."""
    match = _LEADING.match(line)
    if match is None:
        return _read_lower_case(line, texts)
    letters: Readings = {match[1] or match[2]}
    rest = line[match.end() :]
    if _read_whole(rest, texts) == letters:
        return letters
    if _DENIED.match(rest):
        return set()
    return letters | _read_list(line, match.end()) | _read_rest(rest, letters, texts)


def _read_lower_case(line: str, texts: Mapping[str, str]) -> Readings:
    """Read a lower-case letter and the text after it, such as "b) a red circle". The text must be the letter's option."""
    match = re.match(r"\(?([a-z])[).:]\s*(.+)", line)
    return {match[1].upper()} if match and texts.get(match[1].upper()) == normalize_answer(match[2]) else set()


def _read_list(line: str, place: int) -> Readings:
    """Read the letters after the first one in a list such as "A, B and C"."""
    letters: Readings = set()
    while match := _NEXT.match(line, place):
        letters.add(match[1] or match[2])
        place = match.end()
    return letters


def _read_rest(rest: str, letters: Readings, texts: Mapping[str, str]) -> Readings:
    """Read other options in the text after a leading letter: another marked letter, or the words of another option."""
    rest = rest.lstrip(" .):]\"'")
    others: Readings = {match[1] or match[2] for match in _INLINE.finditer(rest)}
    if match := _LEADING.match(rest):
        others.add(match[1] or match[2])
    words = normalize_answer(re.split(r"(?<=[.!?])\s|\n", rest, maxsplit=1)[0])
    named = {letter for letter, option in texts.items() if words and _contains(option, words)}
    return others | (set() if named & letters else named)


def _read_chosen(text: str) -> Readings:
    readings: Readings = set()
    for pattern in (_JUDGED, _CHOSEN):
        for match in pattern.finditer(text):
            if not is_doubted(text[max(0, match.start() - 120) : match.start()]):
                readings.add(next(filter(None, match.groups())))
                readings |= _read_list(text, match.end())
    return readings


def _read_lines(text: str, texts: Mapping[str, str]) -> Readings:
    """Read the leading letter of the first line and a last line that is only a letter. Add all other leading letters."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return set()
    first = _read_leading(lines[0], texts)
    alone = _ALONE.fullmatch(lines[-1])
    last: Readings = {alone[1].upper()} if alone else set()
    if not first and not last:
        return set()
    return first.union(last, *(_read_leading(line, texts) for line in lines[1:]))


def _read_option_text(text: str, texts: Mapping[str, str]) -> Readings:
    """Read the options that a short sentence names. Ignore an option that occurs only inside a longer named option."""
    remainder = normalize_answer(text)
    readings: Readings = set()
    for letter, option in sorted(texts.items(), key=lambda entry: -len(entry[1])):
        is_nameable = len(option) > 1 or option.isdecimal() or re.fullmatch(f"[{CJK}]", option)
        if is_nameable and option not in ("yes", "no") and _contains(remainder, option):
            readings.add(letter)
            readings |= {other for other, twin in texts.items() if twin == option}
            remainder = remainder.replace(option, " | ")
    denies = re.search(
        r"\b(?:not|no|never|neither|nor|or|without|cannot|(?:ca|wo|is|are|was|were|do|does|did|has|have|could|would)nt)\b|不|没|非|无|或",
        remainder,
    )
    return set() if denies or len(remainder.split()) > _MAX_WORDS_AROUND else readings


def _contains(text: str, part: str) -> bool:
    """Return whether ``text`` contains ``part`` as whole words. Chinese text does not mark words, so any position counts."""
    return part in text if re.search(f"[{CJK}]", part) else f" {part} " in f" {text} "
