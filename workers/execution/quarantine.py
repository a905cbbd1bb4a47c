"""Quarantine: the samples of a chunk that was in flight at two engine deaths run in small groups, apart from all other samples.

A group is split after an engine death, down to one sample. A sample is convicted (``failed/engine_crashed``) after two
attributed deaths while it ran alone. A fresh engine first answers a control sample. If it dies then, the engine is at fault.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import structlog

from common.deaths import DeathCause
from common.errors import ConfigError, EngineError, SampleError
from common.records import Lease, Outcome, Sample, Standing
from common.storage.plan_index import read_chunk, read_part
from workers.execution.group_testing import count_attributed, describe_deaths, plan_groups
from workers.execution.sample import answer_samples, make_outcome
from workers.runtime.run_context import RunContext
from workers.runtime.worker import Worker

log = structlog.get_logger()

CONVICTING_DEATHS = 2  # attributed deaths while a sample ran alone
UNEXPLAINED_DEATHS = 3  # deaths of any cause while a sample ran alone; the run then pauses and names the sample

_PLAIN_QUESTION = "Answer with the word ok."


def answer_chunk(
    worker: Worker, run: RunContext, lease: Lease, samples: Sequence[Sample], until: Callable[[], bool]
) -> Iterator[list[Outcome]]:
    """Yield outcomes of a chunk's samples as they finish, under the engine lock. End early once ``until()`` is true.

    Raises the errors of ``answer_samples``, ``LeaseLost`` if another worker took the chunk over, and ``ConfigError`` if a
    sample ran alone at too many deaths that are not attributed.
    """
    if not samples:
        return
    with worker.engine_lock.acquire(lease, until):
        if lease.standing == Standing.QUARANTINED:
            yield from _answer_in_groups(worker, run, lease, samples, until)
        else:
            yield from answer_samples(worker.host, run, samples, until)


def _answer_in_groups(
    worker: Worker, run: RunContext, lease: Lease, samples: Sequence[Sample], until: Callable[[], bool]
) -> Iterator[list[Outcome]]:
    quarantine_log = log.bind(run_id=lease.run_id, chunk=lease.chunk)
    quarantine_log.warning("quarantine.started", samples=len(samples))
    _answer_control(worker, run, lease, until)
    by_id = {sample.sample_id: sample for sample in samples}
    deaths = worker.ledger.read_deaths(lease)
    host = worker.host
    groups = plan_groups(list(by_id), deaths, load_s=host.load_s, latency_s=host.latency_s or 0.0)
    for group in groups:
        if until():
            return
        alone = deaths.get(group, Counter()) if len(group) == 1 else Counter[DeathCause]()
        if count_attributed(alone) >= CONVICTING_DEATHS:
            quarantine_log.error("quarantine.sample_failed", sample_id=group[0], deaths=describe_deaths(alone))
            yield [_make_crash_outcome(worker.name, run, by_id[group[0]], alone)]
        elif alone.total() >= UNEXPLAINED_DEATHS:
            worker.ledger.forget_deaths(lease, group)
            raise ConfigError(_describe_unexplained(by_id[group[0]], alone, lease.run_id))
        else:
            worker.ledger.begin_trial(lease, group)
            yield from answer_samples(host, run, [by_id[sample_id] for sample_id in group], until)


def _answer_control(worker: Worker, run: RunContext, lease: Lease, until: Callable[[], bool]) -> None:
    """Answer a control sample, unless this engine has already answered a request. Raises ``EngineError`` if the engine dies.

    A control sample can fail before it reaches the engine, for example if its image is missing. The next one is then tried.
    """
    for control in _list_controls(worker, run, lease):
        if worker.host.latency_s is not None or until():
            return
        worker.ledger.begin_trial(lease, ())
        try:
            for _ in answer_samples(worker.host, run, [control], until):
                pass
        except EngineError as error:
            reason = (
                f"the engine died while it answered a control sample ({control.sample_id}): this worker's engine or GPU is at "
                f"fault, not the samples ({error})"
            )
            raise EngineError(reason, cause=error.cause) from error


def _list_controls(worker: Worker, run: RunContext, lease: Lease) -> Iterator[Sample]:
    """Yield a sample of this chunk, or of the run's first finished chunk, that was ``ok``, then a plain question."""
    index = run.index
    answered = _list_ok(worker.ledger.read_journal(lease).values())
    chunks = [index[lease.chunk]]
    finished = worker.ledger.read_done(lease.run_id).find(b"\1")
    if not answered and 0 <= finished < len(index) and (part := read_part(worker.store, index[finished])):
        answered, chunks = _list_ok(part.outcomes), [index[finished]]
    samples = (sample for chunk in chunks for sample in read_chunk(worker.store, chunk) if sample.sample_id in answered)
    yield from islice(samples, 1)
    yield Sample(sample_id="control", dataset=run.spec.datasets[0].name, index="control", question=_PLAIN_QUESTION)


def _list_ok(outcomes: Iterable[Outcome]) -> set[str]:
    return {outcome.sample_id for outcome in outcomes if outcome.status == "ok"}


def _make_crash_outcome(worker: str, run: RunContext, sample: Sample, deaths: Mapping[DeathCause, int]) -> Outcome:
    """Return the outcome of a sample that kills the engine."""
    message = (
        f"the engine died {count_attributed(deaths)} times while it ran this sample alone ({describe_deaths(deaths)}); "
        "check this sample's media size and text length, or run it with another model"
    )
    return make_outcome(worker, run, sample, time.time(), error=SampleError("engine_crashed", message))


def _describe_unexplained(sample: Sample, deaths: Counter[DeathCause], run_id: str) -> str:
    return (
        f"dataset {sample.dataset}, row {sample.index} (sample {sample.sample_id}): the worker ended {deaths.total()} times while "
        f"it ran this sample alone ({describe_deaths(deaths)}). The sample may not be the cause, so it does not have an outcome. "
        f"Look for out-of-memory kills and preemption in the system's log, then retry the sample with: producer resume {run_id}"
    )
