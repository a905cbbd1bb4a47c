"""Read the numbers in a text: digits, English number words up to ninety-nine, Chinese numerals up to ten.

A number without one exact value (a range, a fraction, a date, "more than 5", "5k") is *unreadable*. For an unreadable number the
result contains ``None`` in addition to the readable numbers, so that the number is not silently ignored.
"""

import re

_UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_COUNTED = (*_TEENS, *(word for tens in _TENS for word in (tens, *(f"{tens}-{unit}" for unit in _UNITS))))
NUMBER_WORDS: dict[str, str] = {word: str(value) for value, word in enumerate(("zero", *_UNITS, *_COUNTED))}
CHINESE_NUMERALS: dict[str, str] = {"零": "0", "〇": "0", "两": "2"} | dict(zip("一二三四五六七八九", "123456789", strict=True))
CHINESE_NUMERALS["十"] = "10"

# Powers of ten for the words and characters that multiply the number before them.
_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "百": 2, "千": 3, "万": 4, "亿": 8}
_FRACTIONS = {"half", "halves", "third", "thirds", "quarter", "quarters", "fifth", "fifths", "dozen", "dozens"}
_BOUNDS = {"more than", "less than", "fewer than", "greater than", "at least", "at most", "no less", "no more", "no fewer"}
_NEGATIONS = {"not", "isn't", "aren't", "wasn't", "never", "nor"}
# "one" is a number after these words. Otherwise it is a pronoun, as in "the left one".
_BEFORE_ONE = {"is", "are", "was", "were", "be", "exactly", "only", "just", "see", "sees", "count", "counts", "has", "have"}
_BEFORE_ONE |= {"contain", "contains", "show", "shows", "with", "total"}
_UNCLEAR_UNITS = {"k", "K", "M", "B", "bn", "mn", "x", "X", "e", "E"}

_RUN = re.compile(r"[A-Za-z0-9_.,:/^²³+\-–~%']+")
_NUMBER = re.compile(r"([+-]?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+|(?=\.))(?:\.([0-9]+))?(%|[A-Za-z]{1,6})?")
_ORDINAL = re.compile(r"[0-9,]*[0-9](?:st|nd|rd|th)|[23]D", re.IGNORECASE)
_NUMERAL_RUN = "[零〇一二两三四五六七八九十百千万亿]+"
_MEASURES = "个個只隻条张位名人头辆根块颗件朵棵次本把台座架艘层匹片支瓶杯盏扇间岁年月天日元米种"
_CHINESE = re.compile(rf"(?<![第每某这那另同哪0-9.零〇一二两三四五六七八九十百千万亿])({_NUMERAL_RUN})(?=[{_MEASURES}])")
_CHINESE_ALONE = re.compile(rf"[^\w]*({_NUMERAL_RUN})[^\w]*")
_CHINESE_BOUND = re.compile(r"(?:不是|超过|至少|至多|最多|不到|大于|小于|少于|多于)\s*\Z")
_HARD_LATEX = ("\\frac", "\\dfrac", "\\sqrt")


def canonicalize_number(sign: str, whole: str, fraction: str, *, magnitude: int = 0) -> str:
    """Return a number's shortest text, multiplied by 10^magnitude, without thousands commas, outer zeros and plus sign.

    The function works on text, because floating point would lose digits of a long number.
    """
    digits = whole.replace(",", "") + fraction[:magnitude].ljust(magnitude, "0")
    whole, fraction = digits.lstrip("0") or "0", fraction[magnitude:].rstrip("0")
    text = f"{whole}.{fraction}" if fraction else whole
    return f"-{text}" if sign == "-" and text != "0" else text


def read_numbers(text: str) -> set[str | None]:
    """Return the distinct numbers in ``text`` (half-width), in canonical form, with ``None`` for unreadable numbers."""
    text = re.sub(r"百分之\s*([0-9][0-9.]*)", r"\1%", text.replace("−", "-"))
    if any(command in text for command in _HARD_LATEX):
        return {None}
    readings: set[str | None] = set()
    runs = [match for match in _RUN.finditer(text) if match.group().strip(".,:'~/")]
    words = [_trim(match.group()) for match in runs]
    for place, match in enumerate(runs):
        if text[: match.start()].endswith("第"):
            continue
        behind = text[match.end() : match.end() + 1]
        found = _read_word(words, place, behind)
        if found and _CHINESE_BOUND.search(text[max(0, match.start() - 6) : match.start()]):
            found = (None,)
        readings.update(found)
    return readings | _read_chinese(text)


def _trim(run: str) -> str:
    return run.lstrip(",:/~'").rstrip(".,:/-–~'")


def _read_word(words: list[str], place: int, behind: str) -> tuple[str | None, ...]:
    """Return the reading of one word: ``()`` if it is not a number, ``(None,)`` if the number is unclear."""
    word, after = words[place], words[place + 1 : place + 4]
    number = _parse_word(word, words[place - 1].lower() if place else "")
    if number is None or not number:
        return () if number is None else (None,)
    sign, whole, fraction, unit = number
    before = " ".join(words[max(0, place - 2) : place]).lower()
    follower = after[0].lower() if after else ""
    if before in _BOUNDS or before.split(" ")[-1] in _NEGATIONS or follower in _FRACTIONS or after == ["and", "a", "half"]:
        return (None,)
    if word.lower() in _TENS and follower in NUMBER_WORDS:
        return (None,)
    magnitude = _MAGNITUDES.get(behind) or _MAGNITUDES.get(follower, 0)
    percent = unit == "%" or follower in ("%", "percent") or [part.lower() for part in after[:2]] == ["per", "cent"]
    return (canonicalize_number(sign, whole, fraction, magnitude=magnitude) + ("%" if percent else ""),)


def _parse_word(word: str, before: str) -> tuple[str, ...] | None:
    """Return sign, whole, fraction and unit; ``None`` if the word is not a number, ``()`` if the number is unclear."""
    if word.lower() in NUMBER_WORDS:
        is_pronoun = word.lower() == "one" and before and before not in _BEFORE_ONE
        return None if is_pronoun else ("", NUMBER_WORDS[word.lower()], "", "")
    if not re.search("[0-9]", word) or re.match("[^0-9]*[A-Za-z_]", word) or _ORDINAL.fullmatch(word):
        return None
    match = _NUMBER.fullmatch(word)
    if match is None or match[4] in _UNCLEAR_UNITS:
        return ()
    return match[1], match[2], match[3] or "", match[4] or ""


def _read_chinese(text: str) -> set[str | None]:
    """Return the numeral that is the whole text, or the numerals before measure words: 三个, but not 三角形 or 第三."""
    alone = _CHINESE_ALONE.fullmatch(text)
    numerals = [alone[1]] if alone else _CHINESE.findall(text)
    return {CHINESE_NUMERALS.get(numeral) for numeral in numerals}
