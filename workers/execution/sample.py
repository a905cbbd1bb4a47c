"""Turn samples into outcomes: media, request, generation, prediction, validation, next attempt. All samples run concurrently."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import structlog

from common.errors import ConfigError, EngineError, IntegrityError, SampleError, TransientError
from common.records import Outcome, Sample
from common.redaction import mask_text
from workers.engines.base import is_task_cancelled
from workers.execution.requests import place_images, render_request
from workers.execution.turns import Answers, ask_turns
from workers.runtime.engine_host import EngineHost
from workers.runtime.run_context import RunContext

log = structlog.get_logger()

# How long a chunk's thread collects finished outcomes. Waking the thread for each outcome would cost more than a quick sample.
# A crash loses the outcomes of this interval, in addition to the samples in flight.
_GATHER_S = 0.05
_MOST_AT_ONCE = 512  # outcomes in one batch; the journal's script accepts about 8 000 arguments, two per outcome

# Faults that stop the chunk and not only the sample, the most severe first; ``workers/execution/task.py`` handles them.
CHUNK_FAULTS = (EngineError, IntegrityError, ConfigError, TransientError)


def answer_samples(
    host: EngineHost, run: RunContext, samples: Sequence[Sample], until: Callable[[], bool]
) -> Iterator[list[Outcome]]:
    """Start all samples on the engine's loop and yield finished outcomes in batches.

    End early once ``until()`` is true, and cancel the other samples. After the finished outcomes, raises ``EngineError`` if the
    engine died, ``IntegrityError`` if the request of a sample differs from the planned request, ``ConfigError`` if the user must
    act first, and ``TransientError`` if the engine is unreachable.
    """
    if until():
        return
    finished: list[Outcome] = []
    ended = threading.Event()
    answering = host.submit(_answer_all(host, run, samples, finished))
    answering.add_done_callback(lambda _: ended.set())
    taken = 0
    try:
        while not until():
            all_ended = ended.wait(_GATHER_S)
            if len(finished) > taken:
                batch = finished[taken : taken + _MOST_AT_ONCE]
                taken += len(batch)
                yield batch
            if all_ended and taken == len(finished):
                answering.result()
                return
    finally:
        answering.cancel()


async def _answer_all(host: EngineHost, run: RunContext, samples: Sequence[Sample], finished: list[Outcome]) -> None:
    async def answer(sample: Sample) -> None:
        finished.append(await answer_sample(host, run, sample))

    try:
        async with asyncio.TaskGroup() as group:
            for sample in samples:
                group.create_task(answer(sample))
    except* CHUNK_FAULTS as several:
        raise min(several.exceptions, key=_rank) from None


def _rank(fault: Exception) -> int:
    """Return the position in ``CHUNK_FAULTS``: a dead engine precedes an unreachable engine."""
    return next(place for place, kind in enumerate(CHUNK_FAULTS) if isinstance(fault, kind))


async def answer_sample(host: EngineHost, run: RunContext, sample: Sample) -> Outcome:
    """Return the sample's single outcome. Raises one of ``CHUNK_FAULTS`` if the sample is not at fault.

    If the sample is at fault, the outcome is ``failed``. If an earlier attempt gave an invalid answer, the outcome stays
    ``invalid`` and names the fault.
    """
    started_at = time.time()
    answers = Answers()
    error: SampleError | None = None
    try:
        await _ask_sample(host, run, sample, answers)
    except SampleError as fault:
        error = fault.with_traceback(None)  # a traceback keeps decoded images alive, and forms a reference cycle
    except CHUNK_FAULTS:
        raise
    except (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as surprise:
        # An unexpected error in one sample, such as a package that calls sys.exit, must not stop the other samples.
        if is_task_cancelled():
            raise asyncio.CancelledError from surprise
        log.exception("sample.unexpected_error", run_id=run.run_id, sample_id=sample.sample_id)
        error = SampleError("unexpected_error", f"{type(surprise).__name__}: {surprise}")
    return make_outcome(host.worker, run, sample, started_at, answers, error)


def make_outcome(
    worker: str,
    run: RunContext,
    sample: Sample,
    started_at: float,
    answers: Answers | None = None,
    error: SampleError | None = None,
) -> Outcome:
    """Return the outcome of a sample after its attempts. The last attempt counts.

    A conversation that ended at an earlier turn does not have a response. It is ``invalid`` if that turn has attempts.
    """
    answers = answers or Answers()
    last = answers.made[-1] if answers.made else None
    is_valid = last is not None and not last.attempt.violations
    return Outcome(
        sample_id=sample.sample_id,
        dataset=sample.dataset,
        index=sample.index,
        model=run.spec.model.name,
        status="ok" if is_valid else "invalid" if answers.attempts else "failed",
        prediction=last.answered.prediction if last else None,
        answer=last.answered.answer if last else None,
        target=sample.target,
        response=last.answered.text if last else None,
        attempts=answers.attempts,
        turns=tuple(answers.turns),
        error_code=error.code if error else None,
        error_message=mask_text(str(error)) if error else None,
        finish_reason=last.generation.finish_reason if last else None,
        prompt_tokens=last.generation.prompt_tokens if last else None,
        output_tokens=last.generation.output_tokens if last else None,
        video_input=run.video_input if any(one.kind == "video" for one in sample.media) else None,
        worker=worker,
        started_at=started_at,
        finished_at=time.time(),
        metadata=sample.metadata,
    )


async def _ask_sample(host: EngineHost, run: RunContext, sample: Sample, answers: Answers) -> None:
    """Load the media, and add the attempts for each turn of the sample to ``answers``."""
    if sample.fault is not None:
        raise SampleError(sample.fault.code, sample.fault.message)
    rendered = render_request(sample, run.spec.prompt)
    async with host.hold_images(rendered.media, run) as decoded:
        await ask_turns(host, run, sample, place_images(rendered.messages, decoded), rendered.turns, answers)
