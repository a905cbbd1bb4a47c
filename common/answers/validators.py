"""Validators: each looks at the form of one answer, never at the target, and says whether it is as it should be."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jsonschema.validators import validator_for

from common.answers.extract import normalize_answer, split_words
from common.answers.markup import drop_blocks, drop_thinking, has_image_token
from common.answers.refusals import is_refusal
from common.answers.text import CJK
from common.answers.validator_names import IMPORT_STRING, check_validators, split_entry
from common.plugins import import_object
from common.records import FinishReason, Sample


@dataclass(frozen=True, slots=True)
class Answered:
    """One attempt's answer: ``text`` is the raw response, ``prediction`` the adapter's reading, ``answer`` what it states."""

    sample: Sample
    text: str
    prediction: str
    answer: str | None
    finish_reason: FinishReason | None


Validator = Callable[[Answered], bool]

# A stretch of this many words that is one phrase, said at least so many times in a row, is a loop.
LOOP_WORDS = 24
LOOP_REPEATS = 4
LONGEST_PHRASE_WORDS = 64

_LONG_WORD = 40  # characters; a longer run without a space is looked at character by character
_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+|[!?@&%^~]")
_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL | re.IGNORECASE)


def non_empty(answered: Answered) -> bool:
    """Accept a prediction that says something."""
    return bool(answered.prediction.strip())


def no_image_token(answered: Answered) -> bool:
    """Accept a raw text without image placeholders (MMaDA echoes ``<image>``); a tool's output may show one."""
    return not has_image_token(drop_blocks(answered.text, "sandbox_output"))


def no_refusal(answered: Answered) -> bool:
    """Accept a prediction that does not decline to answer, or declines in the words of one of the sample's options."""
    options = {normalize_answer(option) for option in answered.sample.options.values()}
    return not is_refusal(answered.prediction) or normalize_answer(answered.prediction) in options


def answer_extractable(answered: Answered) -> bool:
    """Accept a prediction that states an answer of the sample's kind (``common/answers/extract.py``)."""
    return answered.answer is not None


def finished(answered: Answered) -> bool:
    """Accept an answer that the model ended itself; neither ``max_tokens`` nor an endpoint's content filter cut it."""
    return answered.finish_reason == "stop"


def no_repetition(answered: Answered) -> bool:
    """Accept a text that is not caught in a loop: a phrase of up to 64 words, 4 times or more in a row, over 24 words or more.

    A Chinese character is a word; so is each character of a run of more than 40 without a space.  Thinking is not looked at.
    """
    words = _split_for_loops(drop_thinking(answered.text))
    longest = min(LONGEST_PHRASE_WORDS, len(words) // LOOP_REPEATS)
    return not any(_has_loop(words, period) for period in range(1, longest + 1))


def max_words(count: int) -> Validator:
    """Accept at most ``count`` words; each Chinese character is one."""
    return lambda answered: len(split_words(answered.prediction)) <= count


def regex(pattern: str) -> Validator:
    """Accept a prediction in which the pattern is found somewhere (``re.search``)."""
    compiled = re.compile(pattern)
    return lambda answered: compiled.search(answered.prediction) is not None


def json_schema(schema: dict[str, Any]) -> Validator:
    """Accept JSON that fits the schema; it may stand in a ```` ```json ```` fence, with nothing else around it."""
    validator = validator_for(schema)(schema)

    def fits_schema(answered: Answered) -> bool:
        fenced = _FENCE.fullmatch(answered.prediction)
        try:
            content = json.loads(fenced[1] if fenced else answered.prediction, parse_constant=_refuse_constant)
            return validator.is_valid(content)
        except (ValueError, RecursionError):
            return False

    return fits_schema


_VALIDATORS: dict[str, Validator] = {
    "non_empty": non_empty,
    "no_image_token": no_image_token,
    "no_refusal": no_refusal,
    "answer_extractable": answer_extractable,
    "finished": finished,
    "no_repetition": no_repetition,
}
_WITH_ARGUMENT: dict[str, Callable[[Any], Validator]] = {"max_words": max_words, "json_schema": json_schema, "regex": regex}


def build_validators(entries: tuple[str | dict[str, Any], ...]) -> tuple[tuple[str, Validator], ...]:
    """Return each entry's name and its validator, in order.

    Raises ``ConfigError`` for an unknown name, a wrong argument, or an import string that leads nowhere.
    """
    check_validators(entries)
    return tuple(_build_validator(*split_entry(entry)) for entry in entries)


def find_violations(validators: tuple[tuple[str, Validator], ...], answered: Answered) -> tuple[str, ...]:
    """Return the names of the validators that ``answered`` does not pass, each once."""
    return tuple(dict.fromkeys(name for name, accepts in validators if not accepts(answered)))


def _build_validator(name: str, argument: Any) -> tuple[str, Validator]:
    if IMPORT_STRING.fullmatch(name):
        own: Validator = import_object(name, what="validator")
        return name, own
    return name, _VALIDATORS[name] if argument is None else _WITH_ARGUMENT[name](argument)


def _split_for_loops(text: str) -> list[str]:
    return [part for word in _WORD.findall(text) for part in ([word] if len(word) <= _LONG_WORD else word)]


def _has_loop(words: list[str], period: int) -> bool:
    """Return whether some stretch repeats its first ``period`` words long enough to be a loop."""
    needed = max(LOOP_WORDS, LOOP_REPEATS * period) - period
    same = 0
    for place in range(period, len(words)):
        same = same + 1 if words[place] == words[place - period] else 0
        if same >= needed:
            return True
    return False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
