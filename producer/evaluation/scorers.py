"""Scorers compare a sample's answer with its target. Each belongs to a convention, named beside every score."""

import re
from decimal import Decimal

from common.answers.extract import normalize_answer
from common.records import Outcome

CONVENTION = "strict"

# Digits, with commas only where they part thousands; exponents are bounded, so that no text becomes an infinity.
_NUMBER = re.compile(r"[+-]?(?:(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?", re.IGNORECASE)


def score_outcome(outcome: Outcome) -> float | None:
    """Return 1.0 for a hit, 0.0 for a miss, or ``None`` where there is nothing to score (``docs/conventions.md``).

    Nothing to score: the sample has no target, or it ``failed`` and so was never answered. An ``invalid`` sample was
    answered, but with nothing that can be accepted, and an ``ok`` one may hold no extractable answer: both are misses.
    """
    if outcome.status not in ("ok", "invalid") or not outcome.target:
        return None
    if outcome.status == "invalid" or outcome.answer is None:
        return 0.0
    return float(any(is_match(outcome.answer, accepted) for accepted in outcome.target))


def is_match(answer: str, accepted: str) -> bool:
    """Return whether two answers are equal: the same number if both are numbers, else the same normalized text.

    Marks alone (``?``, ``...``) fold to nothing, and match only themselves.
    """
    if answer.strip() == accepted.strip():
        return True
    found, expected = _read_number(answer), _read_number(accepted)
    if found is not None and expected is not None:
        return found == expected
    folded = normalize_answer(answer)
    return folded != "" and folded == normalize_answer(accepted)


def _read_number(text: str) -> Decimal | None:
    """Return the number that ``text`` is, exactly, or ``None``; a unit or a percent sign makes it text."""
    plain = text.strip().replace("\N{MINUS SIGN}", "-")
    return Decimal(plain.replace(",", "")) if _NUMBER.fullmatch(plain) else None
