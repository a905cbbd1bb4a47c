"""Convert the raw value of one field: text, question, targets, index or kind.

Every function returns the value or raises ``SampleError("bad_field", "found …; expected …")``. The caller adds file, line and
field to the message. Values have the types of JSON: text, number, bool, list, mapping (never ``None``).
"""

import re
import reprlib
from collections.abc import Mapping
from math import isfinite
from typing import Any, get_args

from common.errors import SampleError
from common.records import Kind
from common.spelling import suggest
from producer.datasets.values.literals import read_answers, read_texts

KINDS: tuple[Kind, ...] = get_args(Kind)

_NUMBER = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)?(\.\d*)?([eE][-+]?\d+)?%?")
_NAMES = {str: "text", bytes: "bytes", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


def misfit(value: Any, expected: str) -> SampleError:
    """Return the error for a value of the wrong type or content."""
    return SampleError("bad_field", f"found {reprlib.repr(value)} ({_NAMES.get(type(value), 'null')}); expected {expected}")


def is_blank(value: Any) -> bool:
    """Return whether a value is null, a blank text, or a list of these."""
    if isinstance(value, list):
        return all(map(is_blank, value))
    return value is None or (isinstance(value, str) and not value.strip())


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


def to_question(value: Any) -> str:
    """Return the text of a question. Raises ``SampleError`` for a list of turns, as in multi-turn datasets of VLMEvalKit."""
    text = to_text(value)
    if turns := read_texts(text):
        raise SampleError(
            "bad_field",
            f"found a list of {len(turns)} turns; expected one question; give each turn a row of its own, write the "
            "conversation, with the answers to its earlier turns, as messages: [{role, content}, …], or set "
            "prompt: {multi_turn: ask} to ask the turns one after the other",
        )
    return text


def to_target(value: Any) -> tuple[str, ...]:
    """Return the accepted answers, from one value or a list. Omit null and blank answers. Bools become Yes and No.

    A list may contain objects with the answer of each annotator, as in VizWiz (``{"answer": …, "answer_confidence": …}``).
    """
    texts = (to_plain_text(one) for one in list_answers(value) if one is not None)
    return tuple(text for text in texts if text.strip())


def list_answers(value: Any) -> list[Any]:
    """Return the accepted answers in the value of a target. A text may spell the list, as in a table (``['a', 'b']``)."""
    if isinstance(value, str):
        listed = read_answers(value)
        value = value if listed is None else listed
    return [_find_answer(one) for one in value] if isinstance(value, list) else [value]


def _find_answer(value: Any) -> Any:
    return value["answer"] if isinstance(value, dict) and "answer" in value else value


def infer_kind(target: tuple[str, ...], format_kind: Kind | None = None) -> Kind:
    """Infer the kind of a row without options from its accepted answers. ``format_kind`` is the kind that its format gives.

    This function is used only for a source without a survey. ``survey`` infers one kind from all rows of a dataset.
    """
    if are_yes_no(target):
        return "yes_no"
    if format_kind or not target:
        return format_kind or "free_text"
    return "number" if all(is_number(text) for text in target) else "short_text"


def are_yes_no(target: tuple[str, ...]) -> bool:
    """Return whether there are accepted answers and all of them are yes or no, ignoring case."""
    return bool(target) and all(text.strip().lower() in ("yes", "no") for text in target)


def is_number(text: str) -> bool:
    """Return whether an accepted answer is a number. It may have a percent sign, an exponent or commas between thousands."""
    stripped = text.strip()
    return _NUMBER.fullmatch(stripped) is not None and any(character.isdigit() for character in stripped)


def to_plain_text(value: Any) -> str:
    if isinstance(value, str):
        return str(value)  # a number in a literal is a subclass of str
    if isinstance(value, bool):
        return "Yes" if value else "No"
    if isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return str(value)
    raise misfit(value, "text, a number, true or false")


_MATHVISTA_KINDS: dict[Any, Kind] = {"integer": "number", "float": "number", "text": "short_text", "list": "short_text"}


def read_mathvista_kind(fields: Mapping[str, Any], *, has_options: bool) -> Kind | None:
    """Return the kind that MathVista's fields ``question_type`` and ``answer_type`` give to a row, or None without these fields.

    Raises ``SampleError`` for a multiple-choice row without options.
    """
    kind = _MATHVISTA_KINDS.get(fields.get("answer_type")) if isinstance(fields.get("answer_type"), str) else None
    question_type = fields.get("question_type")
    if kind is None or question_type not in ("multi_choice", "free_form"):
        return None
    if question_type == "free_form":
        return kind
    if not has_options:
        raise SampleError("bad_field", "found 'multi_choice', and the row has no options; expected them in choices")
    return "multiple_choice"
