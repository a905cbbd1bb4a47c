"""Quarantine: a chunk that has killed an engine runs one sample at a time, each recorded before it starts.

A sample during whose run alone the engine died twice is the cause: it becomes ``failed/engine_crashed``, and the rest of its
chunk runs together again.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence

import structlog

from common.errors import SampleError
from common.records import Lease, Outcome, Sample
from workers.execution.sample import answer_samples, make_outcome
from workers.runtime.run_context import RunContext
from workers.runtime.worker import Worker

log = structlog.get_logger()

MOST_CRASHES = 2


def answer_chunk(
    worker: Worker, run: RunContext, lease: Lease, samples: Sequence[Sample], until: Callable[[], bool]
) -> Iterator[list[Outcome]]:
    """Yield outcomes of a chunk's samples as they finish, under the engine lock.  End early once ``until()`` holds.

    Raises what ``answer_samples`` raises, and ``LeaseLost`` when another worker took the chunk over.  Only an engine that died
    counts against a sample that ran alone: any other end releases the chunk without blame, and deletes the record of the trial.
    """
    if not samples:
        return
    left: Sequence[Sample] = samples
    if lease.suspect:
        with worker.engine_lock.acquire(lease, until):
            left = yield from _answer_apart(worker, run, lease, samples, until)
    lease = lease.model_copy(update={"suspect": False})
    with worker.engine_lock.acquire(lease, until):
        yield from answer_samples(worker.host, run, left, until)


def _answer_apart(
    worker: Worker, run: RunContext, lease: Lease, samples: Sequence[Sample], until: Callable[[], bool]
) -> Generator[list[Outcome], None, Sequence[Sample]]:
    """Run one sample after the other until the cause is known.  Return the samples that are left."""
    log.warning("quarantine.started", run_id=lease.run_id, chunk=lease.chunk, samples=len(samples))
    for number, sample in enumerate(samples):
        if until():
            return samples[number:]
        if worker.ledger.begin_trial(lease, sample.sample_id) >= MOST_CRASHES:
            log.error("quarantine.sample_failed", run_id=lease.run_id, sample_id=sample.sample_id)
            yield [make_crash_outcome(worker.name, run, sample)]
            worker.ledger.absolve(lease)
            return samples[number + 1 :]
        yield from answer_samples(worker.host, run, [sample], until)
    return []


def make_crash_outcome(worker: str, run: RunContext, sample: Sample) -> Outcome:
    """Return the outcome of a sample that kills the engine."""
    message = (
        f"the engine died {MOST_CRASHES} times while it ran this sample alone; "
        "check what is special about it (media size, text length), or run it with another model"
    )
    return make_outcome(worker, run, sample, time.time(), error=SampleError("engine_crashed", message))
