"""Convert the raw value of one field: text, options, targets, index or kind.

Every function returns the value or raises ``SampleError("bad_field", "found …; expected …")``. The caller adds file, line and
field to the message. Values have the types of JSON: text, number, bool, list, mapping (never ``None``).
"""

import re
import reprlib
from collections.abc import Iterable
from math import isfinite
from string import ascii_uppercase
from typing import Any, get_args

from common.errors import SampleError
from common.records import Kind
from common.spelling import suggest

KINDS: tuple[Kind, ...] = get_args(Kind)

_LETTERS = frozenset(ascii_uppercase)
_NUMBER = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)?(\.\d*)?([eE][-+]?\d+)?%?")
_NAMES = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


def misfit(value: Any, expected: str) -> SampleError:
    """Return the error for a value of the wrong type or content."""
    return SampleError("bad_field", f"found {reprlib.repr(value)} ({_NAMES.get(type(value), 'null')}); expected {expected}")


def to_text(value: Any) -> str:
    if not isinstance(value, str):
        raise misfit(value, "text")
    return value


def to_index(value: Any) -> str:
    """Return the id of a row as text: 7 and "7" name the same row."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    raise misfit(value, "a whole number or text")


def to_kind(value: Any) -> Kind:
    for kind in KINDS:
        if value == kind:
            return kind
    hint = suggest(value, list(KINDS)) if isinstance(value, str) else ""
    raise misfit(value, f"one of {', '.join(KINDS)}{hint}")


def to_options(value: Any) -> dict[str, str]:
    """Return options by letter, from a mapping by letter or a list (A, B, C, …). Omit null and blank options."""
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
            text = option if isinstance(option, str) else _to_plain_text(option)
            if text and not text.isspace():
                options[letter] = text
    return options


def to_target(value: Any) -> tuple[str, ...]:
    """Return the accepted answers, from one value or a list. Omit null and blank answers. Bools become Yes and No."""
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    values = value if isinstance(value, list) else [value]
    texts = (_to_plain_text(one) for one in values if one is not None)
    return tuple(text for text in texts if text.strip())


def to_letters(target: tuple[str, ...], options: dict[str, str]) -> tuple[str, ...]:
    """Return multiple-choice targets as option letters. A target may also be the text of exactly one option.

    Raises ``SampleError`` for a target that does not match an option, because every answer would silently count as wrong.
    """
    return tuple([text if text in options else _find_letter(text, options) for text in target])


def _find_letter(text: str, options: dict[str, str]) -> str:
    wanted = text.strip().casefold()
    letters = [letter for letter, option in options.items() if wanted in (letter.casefold(), option.strip().casefold())]
    if len(letters) != 1:
        raise SampleError(
            "bad_field", f"found {text[:80]!r}; expected one of the letters {', '.join(options)}, or one option's text"
        )
    return letters[0]


def infer_kind(options: dict[str, str], target: tuple[str, ...]) -> Kind:
    """Infer the question kind of a row from its options and accepted answers."""
    if options:
        return "multiple_choice"
    if not target:
        return "free_text"
    if are_yes_no(target):
        return "yes_no"
    return "number" if all(_is_number(text) for text in target) else "short_text"


def are_yes_no(target: tuple[str, ...]) -> bool:
    """Return whether there are accepted answers and all of them are yes or no, ignoring case."""
    return bool(target) and all(text.strip().lower() in ("yes", "no") for text in target)


def _is_number(text: str) -> bool:
    stripped = text.strip()
    return _NUMBER.fullmatch(stripped) is not None and any(character.isdigit() for character in stripped)


def _to_plain_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "Yes" if value else "No"
    if isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return str(value)
    raise misfit(value, "text, a number, true or false")
