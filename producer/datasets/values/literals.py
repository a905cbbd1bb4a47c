"""Lists and objects that a table contains as text: JSON, or Python literals as pandas and VLMEvalKit write them.

Numbers stay as written (``0.50``, ``1e3``), because an option is a text, not a number.
"""

import ast
import io
import json
import re
import tokenize
import warnings
from itertools import pairwise
from threading import Lock
from typing import Any

_LONGEST = 1_000_000  # characters; Python's parser takes about 100 times the memory of the text
# A text in square brackets, or in other brackets with a quoted text at its beginning: tuples, sets, the lists that NumPy prints.
_LIST_LIKE = re.compile(r"""\s*(?:\[.*\]|\(\s*['"].*\)|\{\s*['"].*\})\s*""", re.DOTALL)
_WARNING_FILTERS = Lock()  # the filters belong to the process, and several threads read rows


class WrittenNumber(str):
    """A number in a literal, as written."""

    __slots__ = ()


def read_literal(text: str) -> list[Any] | dict[Any, Any] | None:
    """Return the list or object that ``text`` spells, with numbers as ``WrittenNumber``, or None if it is other text."""
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] not in ("[]", "{}") or len(stripped) > _LONGEST:
        return None
    try:
        read = json.loads(stripped, parse_int=WrittenNumber, parse_float=WrittenNumber)
    except (ValueError, RecursionError):
        read = _read_python(stripped)
    return read if isinstance(read, list | dict) else None


def read_texts(text: str) -> list[str] | None:
    """Return the texts of a list literal such as ``['a', 'b']``, or None for any other text, such as ``[0, 1]`` or ``[]``."""
    read = read_literal(text)
    return read if isinstance(read, list) and read and all(type(one) is str for one in read) else None


def read_answers(text: str) -> list[Any] | None:
    """Return the accepted answers that a list literal spells, or None for any other text.

    The list contains texts, or objects with ``answer`` as in VizWiz, and it may also contain other values. A list of numbers, such
    as ``[1, 2]``, is one answer, because it may be a point or a range.
    """
    read = read_literal(text)
    if not isinstance(read, list):
        return None
    is_plain = all(one is None or isinstance(one, str | bool) or _is_annotated(one) for one in read)
    return read if is_plain and any(type(one) is str or _is_annotated(one) for one in read) else None


def is_unclear_list(text: str) -> bool:
    """Return whether a text looks like a list of several answers, but is read as one answer."""
    return _LIST_LIKE.fullmatch(text) is not None and read_answers(text) is None


def _is_annotated(value: Any) -> bool:
    return isinstance(value, dict) and "answer" in value


def _read_python(text: str) -> Any:
    try:
        if _joins_strings(text):
            return None
        with _WARNING_FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns about escapes such as \d, which are common in answers
            return _evaluate(ast.parse(text, mode="eval").body, text)
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError):
        return None  # TypeError: a key is a list


def _joins_strings(text: str) -> bool:
    """Return whether two strings are adjacent. NumPy prints lists in this form, and Python would read them as one string."""
    tokens = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type != tokenize.NL]
    return any(first == second == tokenize.STRING for first, second in pairwise(tokens))


def _evaluate(node: ast.expr, text: str) -> Any:
    """Return the value of a literal. Raises ``ValueError`` for any other expression."""
    match node:
        case ast.List() | ast.Tuple():
            return [_evaluate(one, text) for one in node.elts]
        case ast.Dict():
            keys = [_evaluate(key, text) if key else None for key in node.keys]
            if len(set(keys)) < len(keys):
                raise ValueError("a key is given twice")
            return dict(zip(keys, (_evaluate(value, text) for value in node.values), strict=True))
        case ast.Constant(value=str() | bool() | None):
            return node.value
        case ast.Constant(value=int() | float()) | ast.UnaryOp(ast.USub() | ast.UAdd(), ast.Constant(value=int() | float())):
            return WrittenNumber(ast.get_source_segment(text, node))
    raise ValueError("not a literal")
