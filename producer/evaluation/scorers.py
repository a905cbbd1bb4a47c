"""Scorers compare the answer of a sample with its target. Each scorer belongs to a convention. Reports show the convention."""

import re
from decimal import Decimal

from common.answers.extract import normalize_answer
from common.records import Outcome

CONVENTION = "strict"

# Digits, with commas only as thousands separators. Exponents are bounded, so that a text cannot become infinity.
_NUMBER = re.compile(r"[+-]?(?:(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?", re.IGNORECASE)


def score_outcome(outcome: Outcome) -> float | None:
    """Return 1.0 for a hit, 0.0 for a miss, or ``None`` if the sample is not scored (``docs/conventions.md``).

    A sample is not scored if it does not have a target, or if it ``failed`` and so does not have an answer. An ``invalid`` sample
    (answered, but no attempt passed validation) and an ``ok`` sample without an extractable answer are misses.
    """
    if outcome.status not in ("ok", "invalid") or not outcome.target:
        return None
    if outcome.status == "invalid" or outcome.answer is None:
        return 0.0
    return float(any(is_match(outcome.answer, accepted) for accepted in outcome.target))


def is_match(answer: str, accepted: str) -> bool:
    """Return whether two answers are equal: the same number if both are numbers, else the same normalized text.

    Text that consists only of punctuation (``?``, ``...``) normalizes to the empty string and matches only itself.
    """
    if answer.strip() == accepted.strip():
        return True
    found, expected = _read_number(answer), _read_number(accepted)
    if found is not None and expected is not None:
        return found == expected
    folded = normalize_answer(answer)
    return folded != "" and folded == normalize_answer(accepted)


def _read_number(text: str) -> Decimal | None:
    """Return ``text`` as an exact number, or ``None``. Text with a unit or a percent sign is not a number."""
    plain = text.strip().replace("\N{MINUS SIGN}", "-")
    return Decimal(plain.replace(",", "")) if _NUMBER.fullmatch(plain) else None
