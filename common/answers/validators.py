"""Validators. Each validator checks the form of one answer, never the target, and returns whether the answer is valid."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.answers.extract import normalize_answer, split_words
from common.answers.markup import drop_blocks, drop_thinking, has_image_token
from common.answers.refusals import is_refusal
from common.answers.text import CJK
from common.errors import ConfigError
from common.plugins import import_object
from common.records import FinishReason, Sample
from common.spelling import suggest


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer of one attempt.

    ``text`` is the raw response, ``prediction`` the text that the adapter extracts, and ``answer`` the extracted answer.
    """

    sample: Sample
    text: str
    prediction: str
    answer: str | None
    finish_reason: FinishReason | None


Validator = Callable[[Answered], bool]

IMPORT_STRING = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)

# A loop is one phrase that occurs at least LOOP_REPEATS times in a row, with at least LOOP_WORDS words in total.
LOOP_WORDS = 24
LOOP_REPEATS = 4
LONGEST_PHRASE_WORDS = 64

_MAX_WORDS_EXPECTED = "a whole number from 1, for example {max_words: 30}"
_LONG_WORD = 40  # characters; a longer run without a space is split into characters
_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+|[!?@&%^~]")
_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL | re.IGNORECASE)


def non_empty(answered: Answered) -> bool:
    """Accept a prediction that is not blank."""
    return bool(answered.prediction.strip())


def no_image_token(answered: Answered) -> bool:
    """Accept a raw text without image placeholders (MMaDA echoes ``<image>``). The output of a tool may contain placeholders."""
    return not has_image_token(drop_blocks(answered.text, "sandbox_output"))


def no_refusal(answered: Answered) -> bool:
    """Accept a prediction that is not a refusal. Also accept a refusal that is the text of one of the sample's options."""
    options = {normalize_answer(option) for option in answered.sample.options.values()}
    return not is_refusal(answered.prediction) or normalize_answer(answered.prediction) in options


def answer_extractable(answered: Answered) -> bool:
    """Accept a prediction that states an answer of the sample's kind (``common/answers/extract.py``)."""
    return answered.answer is not None


def finished(answered: Answered) -> bool:
    """Accept an answer that the model completed. Reject one that ``max_tokens`` or an endpoint's content filter has cut."""
    return answered.finish_reason == "stop"


def no_repetition(answered: Answered) -> bool:
    """Accept a text without a loop: a phrase of up to 64 words, at least 4 times in a row, with at least 24 words in total.

    Each Chinese character counts as a word. So does each character of a word of more than 40 characters. Thinking is ignored.
    """
    words = _split_for_loops(drop_thinking(answered.text))
    longest = min(LONGEST_PHRASE_WORDS, len(words) // LOOP_REPEATS)
    return not any(_has_loop(words, period) for period in range(1, longest + 1))


def max_words(count: int) -> Validator:
    """Accept at most ``count`` words. Each Chinese character is a word."""
    return lambda answered: len(split_words(answered.prediction)) <= count


def regex(pattern: str) -> Validator:
    """Accept a prediction that contains the pattern (``re.search``)."""
    compiled = re.compile(pattern)
    return lambda answered: compiled.search(answered.prediction) is not None


def json_schema(schema: dict[str, Any]) -> Validator:
    """Accept JSON that conforms to the schema, plain or in a ```` ```json ```` fence, without other text around it."""
    from jsonschema.validators import validator_for  # imported here for the reason given in _check_json_schema

    validator = validator_for(schema)(schema)

    def fits_schema(answered: Answered) -> bool:
        fenced = _FENCE.fullmatch(answered.prediction)
        try:
            content = json.loads(fenced[1] if fenced else answered.prediction, parse_constant=_refuse_constant)
            return validator.is_valid(content)
        except (ValueError, RecursionError):
            return False

    return fits_schema


def check_validators(entries: tuple[str | dict[str, Any], ...], where: str = "validation.validators") -> None:
    """Raise ``ConfigError`` for the first entry with an unknown name or an invalid argument.

    An entry is a name, a name with its argument (``{max_words: 30}``), or the import string of a user's function
    (``package.module:function``). This function checks only the form of an import string and does not import it.
    """
    for entry in entries:
        name, argument = split_entry(entry, where)
        if IMPORT_STRING.fullmatch(name):
            if argument is not None:
                raise ConfigError(f"{where}: {name}: found {argument!r}; expected the import string alone, without an argument")
        else:
            _check_argument(name, argument, where)


def split_entry(entry: str | dict[str, Any], where: str = "validation.validators") -> tuple[str, Any]:
    """Return an entry's name, and its argument or ``None``. Raises ``ConfigError`` for a mapping of several names."""
    if isinstance(entry, str):
        return entry, None
    if len(entry) != 1:
        raise ConfigError(f"{where}: found {entry!r}; expected one name with its argument, for example {{max_words: 30}}")
    [(name, argument)] = entry.items()
    if argument is None:
        raise ConfigError(f"{where}: {name}: found no argument after the colon; expected an argument, or the name alone")
    return name, argument


def _check_argument(name: str, argument: Any, where: str) -> None:
    if name not in VALIDATORS:
        known = sorted(VALIDATORS)
        raise ConfigError(f"{where}: unknown validator {name!r}{suggest(name, known)}; known validators: {', '.join(known)}")
    entry = VALIDATORS[name]
    if not isinstance(entry, _WithArgument):
        if argument is not None:
            raise ConfigError(f"{where}: {name}: found {argument!r}; expected the name alone, without an argument")
        return
    if not isinstance(argument, entry.type) or isinstance(argument, bool):
        raise ConfigError(f"{where}: {name}: found {argument!r}; expected {entry.expected}")
    entry.check(argument, where)


def _check_max_words(count: int, where: str) -> None:
    if count < 1:
        raise ConfigError(f"{where}: max_words: found {count}; expected {_MAX_WORDS_EXPECTED}")


def _check_json_schema(schema: dict[str, Any], where: str) -> None:
    # Imported here, because the import is slow and most specs do not have a schema.
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise ConfigError(f"{where}: json_schema: not a valid JSON schema at {error.json_path}: {error.message}") from None
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
    for reference in _find_references(schema):
        if not reference.startswith("#"):
            raise ConfigError(f"{where}: json_schema: $ref {reference!r} points outside the schema; expected # at its start")
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise ConfigError(f"{where}: json_schema: $ref {reference!r} does not exist in the schema; correct it") from None


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


def build_validators(entries: tuple[str | dict[str, Any], ...]) -> tuple[tuple[str, Validator], ...]:
    """Return each entry's name and its validator, in order.

    Raises ``ConfigError`` for an unknown name, a wrong argument, or an import string that cannot be imported.
    """
    check_validators(entries)
    return tuple(_build_validator(*split_entry(entry)) for entry in entries)


def describe_validator(name: str) -> tuple[str, str | None]:
    """Return a description of the answers that the built-in validator ``name`` accepts, and its argument or None."""
    entry = VALIDATORS[name]
    described, argument = (entry.build, entry.expected) if isinstance(entry, _WithArgument) else (entry, None)
    return described.__doc__ or "", argument


def find_violations(validators: tuple[tuple[str, Validator], ...], answered: Answered) -> tuple[str, ...]:
    """Return the names of the validators that reject ``answered``, each name once."""
    return tuple(dict.fromkeys(name for name, accepts in validators if not accepts(answered)))


def _build_validator(name: str, argument: Any) -> tuple[str, Validator]:
    if IMPORT_STRING.fullmatch(name):
        own: Validator = import_object(name, what="validator")
        return name, own
    entry = VALIDATORS[name]
    return name, entry.build(argument) if isinstance(entry, _WithArgument) else entry


def _split_for_loops(text: str) -> list[str]:
    return [part for word in _WORD.findall(text) for part in ([word] if len(word) <= _LONG_WORD else word)]


def _has_loop(words: list[str], period: int) -> bool:
    """Return whether the words contain a loop whose phrase has ``period`` words."""
    needed = max(LOOP_WORDS, LOOP_REPEATS * period) - period
    same = 0
    for place in range(period, len(words)):
        same = same + 1 if words[place] == words[place - period] else 0
        if same >= needed:
            return True
    return False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, slots=True)
class _WithArgument:
    """A validator with an argument.

    The fields are the argument's type, its description for messages, its check, and the function that builds the validator.
    """

    type: type
    expected: str
    check: Callable[[Any, str], None]
    build: Callable[[Any], Validator]


# All validators by name. ``check_validators`` and ``build_validators`` read this table.
VALIDATORS: dict[str, Validator | _WithArgument] = {
    "non_empty": non_empty,
    "no_image_token": no_image_token,
    "no_refusal": no_refusal,
    "answer_extractable": answer_extractable,
    "finished": finished,
    "no_repetition": no_repetition,
    "max_words": _WithArgument(int, _MAX_WORDS_EXPECTED, _check_max_words, max_words),
    "json_schema": _WithArgument(
        dict, "a JSON schema, for example {json_schema: {type: object, required: [answer]}}", _check_json_schema, json_schema
    ),
    "regex": _WithArgument(str, "a pattern in quotes, for example {regex: '^[A-D]$'}", _check_regex, regex),
}
