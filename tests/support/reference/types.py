"""The types, bounds and defaults of pydantic fields, in the words of a user who writes YAML."""

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from common.spec.base import Written

_NAMES: dict[Any, str] = {
    str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value", Path: "path", SecretStr: "text",
    re.Pattern: "regular expression", dict: "mapping",
}  # fmt: skip


def name_type(field: FieldInfo, links: Mapping[str, str]) -> str:
    """Return the type of a field with its bounds. ``links`` maps the names of models to the anchors of their sections."""
    written = next((one.forms for one in field.metadata if isinstance(one, Written)), None)
    return written or " ".join(filter(None, (_name(field.annotation, links), _name_bounds(field.metadata))))


def _name(annotation: Any, links: Mapping[str, str]) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _name(parts[0], links)
    if origin is Literal:
        return _join(f"`{value}`" for value in parts)
    if origin in (Union, UnionType):
        return _join(_name(part, links) for part in parts if part is not NoneType)
    if origin is tuple:
        return "list of " + re.sub(r"\b(text|number|mapping)\b(?!\()", r"\1s", _name(parts[0], links))
    if origin is dict:
        return "mapping" if parts[1] is Any else f"mapping of {_NAMES[parts[1]]}s"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _join(f"`{one.value}`" for one in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[mapping](#{links[annotation.__name__]})"
    return _NAMES[origin or annotation]


def _join(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _name_bounds(metadata: list[Any]) -> str:
    found: list[str] = []
    for one in metadata:
        match one:
            case Ge(ge=bound):
                found.append(f"≥ {bound}")
            case MinLen(min_length=bound):
                found.append(f"(at least {bound})")
            case Gt(gt=bound):
                found.append(f"> {bound}")
            case Le(le=bound):
                found.append(f"≤ {bound}")
            case Lt(lt=bound):
                found.append(f"< {_name_power(bound)}")
            case MultipleOf(multiple_of=bound):
                found.append(f"multiple of {bound}")
            case _:
                pass
    return ", ".join(found)


def _name_power(bound: Any) -> str:
    return f"2^{bound.bit_length() - 1}" if isinstance(bound, int) and bound > 2**32 and bound.bit_count() == 1 else str(bound)


def name_default(field: FieldInfo) -> str:
    """Return the default as the user would write it: empty if there is no value, or ``required``."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or value in ((), {}, "") or isinstance(value, BaseModel):
        return ""
    return f"`{_write(value)}`"


def _write(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_write, value))}]"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
