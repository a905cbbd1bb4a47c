"""Hide the target in the columns that a template can name, because a prompt must not contain the answer."""

from collections.abc import Mapping
from typing import Any, Final

# Templates cannot use columns and fields of objects with these names, in any case.
SECRET_NAMES: Final = frozenset({"target", "targets", "answer", "answers"})

_ANSWERING = ("assistant", "gpt")  # roles of a turn that answers


def hide_targets(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row without its target. Null counts as absent.

    These parts are left out:

    - columns, and fields of nested objects, with a name in ``SECRET_NAMES``,
    - the last turn of a conversation, if it is the assistant's.

    Texts are not searched, because the prediction of an earlier run may be JSON with a field ``answer``.
    """
    return {name: _hide(value) for name, value in columns.items() if not (value is None or _is_secret(name))}


def _hide(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _hide(one) for name, one in value.items() if not _is_secret(name)}
    if isinstance(value, list):
        return [_hide(one) for one in (value[:-1] if value and _is_answer(value[-1]) else value)]
    return value


def _is_secret(name: Any) -> bool:
    return str(name).lower() in SECRET_NAMES


def _is_answer(turn: Any) -> bool:
    return isinstance(turn, Mapping) and (turn.get("role") or turn.get("from")) in _ANSWERING
