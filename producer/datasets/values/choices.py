"""The options of a multiple-choice row, and its targets as option letters."""

from collections.abc import Iterable
from string import ascii_uppercase
from typing import Any

from common.errors import SampleError
from producer.datasets.fields import list_answers, misfit, to_plain_text
from producer.datasets.values.literals import read_literal

_LETTERS = frozenset(ascii_uppercase)
_ABSENT = ("none", "null", "nan")  # tables write an absent list in these forms


def to_options(value: Any) -> dict[str, str]:
    """Return options by letter, from a mapping by letter or a list (A, B, C, …). Omit null and blank options.

    A text may spell the mapping or the list (``"['cat', 'dog']"``).
    """
    if isinstance(value, str):
        if not value.strip() or value.strip().casefold() in _ABSENT:
            return {}
        value = value if (read := read_literal(value)) is None else read
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        if not _LETTERS.issuperset(value):
            raise misfit(next(key for key in value if key not in _LETTERS), "a capital letter from A to Z for each option")
        pairs = value.items()
    elif isinstance(value, list):
        if len(value) > len(ascii_uppercase):
            raise misfit(value, f"at most {len(ascii_uppercase)} options, not {len(value)}")
        pairs = zip(ascii_uppercase, value, strict=False)
    else:
        raise misfit(value, "a mapping of letters to texts, or a list of texts")
    options = {}
    for letter, option in pairs:
        if option is not None:
            text = str(option) if isinstance(option, str) else to_plain_text(option)
            if text and not text.isspace():
                options[letter] = text
    return options


def are_listed(value: Any) -> bool:
    """Return whether the value of an options field is a list, or text that spells one."""
    return isinstance(value, list) or (isinstance(value, str) and isinstance(read_literal(value), list))


def to_positions(value: Any) -> tuple[int, ...]:
    """Return the positions of options, counted from 0, from a whole number, its text, or a list of these."""
    if isinstance(value, str):
        value = value if (read := read_literal(value)) is None else read
    return tuple([_to_position(one) for one in (value if isinstance(value, list) else [value])])


def _to_position(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    raise misfit(value, "the position of an option, counted from 0")


def to_letters(value: Any, options: dict[str, str], *, are_listed: bool) -> tuple[str, ...]:
    """Return the multiple-choice targets in the value of a field as option letters.

    A target is a letter or the text of exactly one option. If the options are a list (``are_listed``), a target can also be a whole
    number: the position in the list, counted from 0, as in Hugging Face datasets.

    Raises ``SampleError`` for a target that does not match an option, because every answer would silently count as wrong. If the
    options are a list, also raises ``SampleError`` for a position or letter of one option that is the text of another option.
    """
    letters = []
    is_option = isinstance(value, str) and value in options.values()  # an option may be a text that spells a list
    for one in [value] if is_option else list_answers(value):
        if isinstance(one, int) and not isinstance(one, bool) and are_listed:
            letters.append(_find_by_number(one, options))
        elif one is not None and (text := to_plain_text(one)).strip():
            letters.append(_check_letter(text, options, are_listed=are_listed) if text in options else _find_letter(text, options))
    return tuple(letters)


def _check_letter(letter: str, options: dict[str, str], *, are_listed: bool) -> str:
    """Return the letter of an option.

    Raises ``SampleError`` if the options are a list and the letter is also the text of another option. A list does not show
    letters, so the text may be meant.
    """
    others = [other for other, option in options.items() if option.strip() == letter and other != letter]
    if are_listed and others and options[letter].strip() != letter:
        raise SampleError(
            "bad_field",
            f"found {letter!r}, which is the letter of one option and the text of option {others[0]}; expected one meaning; write "
            "the options as an object by letter, or give the position of the target with fields: {target_index: COLUMN}",
        )
    return letter


def find_positions(positions: Iterable[int], options: dict[str, str]) -> tuple[str, ...]:
    """Return the letters of the options at these positions. Raises ``SampleError`` for a position without an option."""
    return tuple([_find_at(position, options) or _raise_unknown(position, options) for position in positions])


def _find_by_number(number: int, options: dict[str, str]) -> str:
    indexed = _find_at(number, options)
    named = [letter for letter, option in options.items() if option.strip() == str(number)]
    if indexed is None and len(named) == 1:
        return named[0]
    if indexed is None:
        return _raise_unknown(number, options)
    if named and named != [indexed]:
        raise SampleError(
            "bad_field",
            f"found {number}, which is the position of option {indexed} (counted from 0) and the text of option {named[0]}; "
            "expected a letter or text; if it is the position, map it with fields: {target_index: COLUMN}",
        )
    return indexed


def _find_at(position: int, options: dict[str, str]) -> str | None:
    letter = ascii_uppercase[position : position + 1] if position >= 0 else ""
    return letter if letter in options else None


def _raise_unknown(number: int, options: dict[str, str]) -> str:
    last = ascii_uppercase.index(max(options))
    raise SampleError(
        "bad_field",
        f"found {number}; expected the position of an option from 0 to {last}, one of the letters {', '.join(options)}, "
        "or one option's text",
    )


def _find_letter(text: str, options: dict[str, str]) -> str:
    wanted = text.strip().casefold()
    letters = [letter for letter, option in options.items() if wanted in (letter.casefold(), option.strip().casefold())]
    if len(letters) != 1:
        raise SampleError(
            "bad_field", f"found {text[:80]!r}; expected one of the letters {', '.join(options)}, or one option's text"
        )
    return letters[0]
