"""The names of all validators and what each takes, so that a spec is refused before any worker reads it.

The validators themselves are in ``common/answers/validators.py``, which the producer does not import.
"""

import re
from collections.abc import Callable
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from common.errors import ConfigError
from common.spelling import suggest

# A name and the type of its argument; None for a validator that takes none.
VALIDATORS: dict[str, type | None] = {
    "non_empty": None,
    "no_image_token": None,
    "no_refusal": None,
    "answer_extractable": None,
    "finished": None,
    "no_repetition": None,
    "max_words": int,
    "json_schema": dict,
    "regex": str,
}

IMPORT_STRING = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def check_validators(entries: tuple[str | dict[str, Any], ...], where: str = "validation.validators") -> None:
    """Raise ``ConfigError`` for the first entry that names no validator or gives a wrong argument.

    An entry is a name, a name with its argument (``{max_words: 30}``), or the import string of a function of your own
    (``package.module:function``), of which only the form is looked at here.
    """
    for entry in entries:
        name, argument = split_entry(entry, where)
        if IMPORT_STRING.fullmatch(name):
            if argument is not None:
                raise ConfigError(f"{where}: {name}: a validator of your own takes no argument, found {argument!r}")
        else:
            _check_argument(name, argument, where)


def split_entry(entry: str | dict[str, Any], where: str = "validation.validators") -> tuple[str, Any]:
    """Return an entry's name and argument (``None`` without one).  Raises ``ConfigError`` for a mapping of several names."""
    if isinstance(entry, str):
        return entry, None
    if len(entry) != 1:
        raise ConfigError(f"{where}: found {entry!r}; expected one name with its argument, for example {{max_words: 30}}")
    [(name, argument)] = entry.items()
    if argument is None:
        raise ConfigError(f"{where}: {name}: found no argument after the colon; expected one, or the name alone")
    return name, argument


def _check_argument(name: str, argument: Any, where: str) -> None:
    if name not in VALIDATORS:
        known = sorted(VALIDATORS)
        raise ConfigError(f"{where}: unknown validator {name!r}{suggest(name, known)}; known validators: {', '.join(known)}")
    expected = VALIDATORS[name]
    if expected is None:
        if argument is not None:
            raise ConfigError(f"{where}: {name}: takes no argument, found {argument!r}; write the name alone")
        return
    if not isinstance(argument, expected) or isinstance(argument, bool):
        raise ConfigError(f"{where}: {name}: found {argument!r}; expected {_EXAMPLES[name]}")
    _CHECKS[name](argument, where)


def _check_max_words(count: int, where: str) -> None:
    if count < 1:
        raise ConfigError(f"{where}: max_words: found {count}; expected {_EXAMPLES['max_words']}")


def _check_json_schema(schema: dict[str, Any], where: str) -> None:
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise ConfigError(f"{where}: json_schema: not a valid JSON schema at {error.json_path}: {error.message}") from None
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
    for reference in _find_references(schema):
        if not reference.startswith("#"):
            raise ConfigError(f"{where}: json_schema: $ref {reference!r} leads outside the schema; expected one that begins with #")
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise ConfigError(f"{where}: json_schema: $ref {reference!r} leads nowhere in the schema") from None


def _check_regex(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{where}: regex: {pattern!r} is not a valid pattern: {error}") from None


def _find_references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for child in node.values() for found in _find_references(child)]
    return [found for child in node for found in _find_references(child)] if isinstance(node, list) else []


_CHECKS: dict[str, Callable[[Any, str], None]] = {
    "max_words": _check_max_words,
    "json_schema": _check_json_schema,
    "regex": _check_regex,
}
_EXAMPLES = {
    "max_words": "a whole number from 1, for example {max_words: 30}",
    "json_schema": "a JSON schema, for example {json_schema: {type: object, required: [answer]}}",
    "regex": "a pattern in quotes, for example {regex: '^[A-D]$'}",
}
