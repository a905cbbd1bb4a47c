"""Poison isolation: a chunk that has taken an engine down runs on one sample at a time, each noted before it starts.

A sample during whose run alone the engine went down twice is to blame: it becomes ``failed/engine_crashed``, and the rest
of its chunk goes on together.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence

import structlog

from common.errors import SampleError
from common.records import Lease, Outcome, Sample
from workers.execution.sample import answer_samples, make_outcome
from workers.runtime.run_context import RunContext
from workers.runtime.worker import Slot

log = structlog.get_logger()

MOST_CRASHES = 2


def answer_chunk(
    slot: Slot, run: RunContext, lease: Lease, samples: Sequence[Sample], until: Callable[[], bool]
) -> Iterator[list[Outcome]]:
    """Yield outcomes of a chunk's samples as they come, in its turn; ends early once ``until()`` holds.

    Raises what ``answer_samples`` raises, and ``LeaseLost`` when the chunk went to another.  Only an engine that is gone counts
    against a sample that ran alone: with any other end the chunk is released without blame, and the note with it.
    """
    if not samples:
        return
    left: Sequence[Sample] = samples
    if lease.suspect:
        with slot.turns.take(lease, until):
            left = yield from _answer_apart(slot, run, lease, samples, until)
    lease = lease.model_copy(update={"suspect": False})
    with slot.turns.take(lease, until):
        yield from answer_samples(slot, run, left, until)


def _answer_apart(
    slot: Slot, run: RunContext, lease: Lease, samples: Sequence[Sample], until: Callable[[], bool]
) -> Generator[list[Outcome], None, Sequence[Sample]]:
    """Run one sample after the other, and return those that are left once the one to blame is known."""
    log.warning("this chunk has taken an engine down; one sample at a time", run_id=lease.run_id, chunk=lease.chunk)
    for number, sample in enumerate(samples):
        if until():
            return samples[number:]
        if slot.ledger.begin_trial(lease, sample.sample_id) >= MOST_CRASHES:
            log.error("this sample takes the engine down", run_id=lease.run_id, sample_id=sample.sample_id)
            yield [convict(slot, run, sample)]
            slot.ledger.absolve(lease)
            return samples[number + 1 :]
        yield from answer_samples(slot, run, [sample], until)
    return []


def convict(slot: Slot, run: RunContext, sample: Sample) -> Outcome:
    """Return the outcome of a sample that takes the engine down."""
    message = f"the engine went down {MOST_CRASHES} times while it ran this sample alone; look for what is special about it"
    return make_outcome(slot, run, sample, time.time(), error=SampleError("engine_crashed", message))
