"""The retry ladder: the settings of each attempt after an answer that failed validation. The functions are pure.

=======  =====================  ====================  ========
attempt  temperature, at least  seed                  reminder
=======  =====================  ====================  ========
1        as set                 as set (see below)    no
2        0.2                    derived               yes
3        0.5                    derived               yes
4        0.8                    derived               yes
5 …      1.0                    derived               yes
=======  =====================  ====================  ========

A temperature above the floor does not change. After a truncated answer, attempt 2 has twice the ``max_tokens``, attempt 3 four
times, and later attempts eight times. If the engine rejects the larger ``max_tokens``, the attempt is sent again with the
``max_tokens`` of attempt 1 (``workers/execution/attempts.py``).
Seeds derive from the sample's id, the run's seed and the attempt's number, so that the same inputs give the same run. For the
same reason, a first attempt that samples (temperature above 0) without a seed gets a derived seed.
"""

from dataclasses import dataclass

from common.digests import digest_record
from common.records import Sample
from common.spec.models import SamplingParams
from workers.execution.reminders import word_reminder

TEMPERATURE_FLOORS = {2: 0.2, 3: 0.5, 4: 0.8}
LAST_FLOOR = 1.0
MOST_TOKENS_FACTOR = 8


@dataclass(frozen=True, slots=True)
class AttemptPlan:
    """The settings of one attempt, and the reminder to add to its prompt, if any."""

    settings: SamplingParams
    reminder: str | None


def plan_attempt(sample: Sample, generation: SamplingParams, number: int, violations: tuple[str, ...]) -> AttemptPlan:
    """Return the plan of attempt ``number`` (from 1).

    ``violations`` are those of the previous attempt, including ``finished`` if its answer was truncated.
    """
    if number == 1:
        if generation.temperature > 0 and generation.seed is None:
            generation = generation.model_copy(update={"seed": derive_seed(sample.sample_id, None, 1)})
        return AttemptPlan(generation, None)
    changes = {
        "temperature": max(generation.temperature, TEMPERATURE_FLOORS.get(number, LAST_FLOOR)),
        "seed": derive_seed(sample.sample_id, generation.seed, number),
        "max_tokens": generation.max_tokens * (min(2 ** (number - 1), MOST_TOKENS_FACTOR) if "finished" in violations else 1),
    }
    reminds = any(violation != "finished" for violation in violations)
    return AttemptPlan(generation.model_copy(update=changes), word_reminder(sample, violations) if reminds else None)


def derive_seed(sample_id: str, run_seed: int | None, number: int) -> int:
    """Return a seed below 2^31, which every engine accepts, that differs between samples, runs and attempts."""
    return int(digest_record([sample_id, run_seed, number], size=4), 16) >> 1
