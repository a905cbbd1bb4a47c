"""The ladder of attempts: how the next one is asked after an answer that no validator accepted.  Pure.

=======  =====================  ====================  ========
attempt  temperature, at least  seed                  reminder
=======  =====================  ====================  ========
1        as asked               as asked (see below)  no
2        0.2                    its own               yes
3        0.5                    its own               yes
4        0.8                    its own               yes
5 …      1.0                    its own               yes
=======  =====================  ====================  ========

A temperature above the floor stays.  After an answer that was cut, attempt 2 has twice the room, 3 four times, later ones
eight times; an engine that refuses so much is asked with the room of attempt 1 (``workers/execution/sample.py``).  Seeds come from
the sample's id, the run's seed and the attempt's number, so the same inputs give the same run; for the same reason a first
attempt that samples (temperature above 0) without a seed gets one, too.
"""

import re
from dataclasses import dataclass

from common.digests import digest_record
from common.records import Sample
from common.spec.models import SamplingParams

TEMPERATURE_FLOORS = {2: 0.2, 3: 0.5, 4: 0.8}
LAST_FLOOR = 1.0
MOST_ROOM = 8

_REMINDERS = {
    "multiple_choice": ("Answer with the letter of one option only{letters}.", "请只回答一个选项字母{letters}。"),
    "yes_no": ("Answer with Yes or No only.", "请只回答“是”或“否”。"),
    "number": ("Answer with a single number only.", "请只回答一个数字。"),
    "short_text": ("Answer with a single word or a short phrase only.", "请只用一个词或短语回答。"),
    "free_text": ("Answer the question directly, in plain text.", "请用文字直接回答问题。"),
}
_JSON_REMINDER = ("Answer with valid JSON only.", "请只输出有效的 JSON。")
_BRIEF_REMINDER = (" Be brief.", "请尽量简短。")


@dataclass(frozen=True, slots=True)
class AttemptPlan:
    """How to make one attempt: the settings, and what to remind the model of, if anything."""

    settings: SamplingParams
    reminder: str | None


def plan_attempt(sample: Sample, generation: SamplingParams, number: int, violations: tuple[str, ...]) -> AttemptPlan:
    """Return the plan of attempt ``number`` (from 1), after one with ``violations``; name ``finished`` among them if it was cut."""
    if number == 1:
        if generation.temperature > 0 and generation.seed is None:
            generation = generation.model_copy(update={"seed": derive_seed(sample.sample_id, None, 1)})
        return AttemptPlan(generation, None)
    changes = {
        "temperature": max(generation.temperature, TEMPERATURE_FLOORS.get(number, LAST_FLOOR)),
        "seed": derive_seed(sample.sample_id, generation.seed, number),
        "max_tokens": generation.max_tokens * (min(2 ** (number - 1), MOST_ROOM) if "finished" in violations else 1),
    }
    reminds = any(violation != "finished" for violation in violations)
    return AttemptPlan(generation.model_copy(update=changes), word_reminder(sample, violations) if reminds else None)


def derive_seed(sample_id: str, run_seed: int | None, number: int) -> int:
    """Return a seed below 2^31, which every engine takes, that differs between samples, runs and attempts."""
    return int(digest_record([sample_id, run_seed, number], size=4), 16) >> 1


def word_reminder(sample: Sample, violations: tuple[str, ...]) -> str:
    """Return the expected form in words, in the question's language (English or Chinese)."""
    language = 1 if is_chinese(sample.question) else 0
    if "json_schema" in violations:
        return _JSON_REMINDER[language]
    letters = ", ".join(sample.options)
    listed = (f": {letters}", f"（{letters}）")[language] if letters else ""
    brief = _BRIEF_REMINDER[language] if "max_words" in violations else ""
    return _REMINDERS[sample.kind][language].format(letters=listed) + brief


def is_chinese(question: str) -> bool:
    """Return whether a question has at least as many Chinese characters as words of Latin letters, and no kana."""
    characters = len(re.findall(r"[\u4e00-\u9fff]", question))
    words = len(re.findall(r"[A-Za-z]{2,}", question))
    return characters >= max(words, 1) and not re.search(r"[\u3040-\u30ff]", question)
