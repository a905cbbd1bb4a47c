"""Turn samples into outcomes: media, request, generation, prediction, validation, next attempt. All samples run concurrently."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import structlog

from common.answers.extract import extract_answer
from common.answers.validators import Answered, find_violations
from common.errors import ConfigError, EngineError, IntegrityError, SampleError, TransientError
from common.records import Attempt, Outcome, Sample, VideoInput
from common.redaction import mask_text
from workers.engines.base import Generation, Request, is_task_cancelled
from workers.execution.requests import Placed, place_images, render_request
from workers.execution.retry_ladder import plan_attempt
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
    made: list[Made] = []
    error: SampleError | None = None
    try:
        await _ask_until_valid(host, run, sample, made)
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
    return make_outcome(host.worker, run, sample, started_at, made, error)


def make_outcome(
    worker: str,
    run: RunContext,
    sample: Sample,
    started_at: float,
    made: Sequence["Made"] = (),
    error: SampleError | None = None,
) -> Outcome:
    """Return the outcome of a sample after its attempts. The last attempt counts."""
    last = made[-1] if made else None
    return Outcome(
        sample_id=sample.sample_id,
        dataset=sample.dataset,
        index=sample.index,
        model=run.spec.model.name,
        status="failed" if last is None else "invalid" if last.attempt.violations else "ok",
        prediction=last.answered.prediction if last else None,
        answer=last.answered.answer if last else None,
        target=sample.target,
        response=last.answered.text if last else None,
        attempts=tuple(one.attempt for one in made),
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


class Made(NamedTuple):
    """One attempt, with the answer in the form that validators check, and the generation."""

    attempt: Attempt
    answered: Answered
    generation: Generation


async def _ask_until_valid(host: EngineHost, run: RunContext, sample: Sample, made: list[Made]) -> None:
    """Append attempts to ``made`` until one is valid or ``max_attempts`` are used up. Each wave has ``max_attempts``."""
    if sample.fault is not None:
        raise SampleError(sample.fault.code, sample.fault.message)
    violations = sample.violations_before
    rendered = render_request(sample, run.spec.prompt)
    async with host.hold_images(rendered.media, run) as decoded:
        asked = place_images(rendered.messages, decoded)
        for number in range(sample.made_before + 1, sample.made_before + run.spec.validation.max_attempts + 1):
            made.append(await _make_attempt(host, run, sample, asked, number, violations))
            attempt = made[-1].attempt
            if not attempt.violations:
                return
            # A truncated answer gets more tokens in the next attempt, even if `finished` is not among the validators.
            violations = (*attempt.violations, "finished") if attempt.finish_reason == "length" else attempt.violations


async def _make_attempt(
    host: EngineHost, run: RunContext, sample: Sample, asked: Placed, number: int, violations: tuple[str, ...]
) -> Made:
    videos = asked.videos if run.video_input is VideoInput.NATIVE else {}
    plan = plan_attempt(sample, run.spec.generation, number, violations)
    prompt = host.adapter.to_prompt(sample, asked.messages, reminder=plan.reminder)
    request = Request(sample.sample_id, prompt.messages, asked.images, plan.settings, number, prompt.template_options, videos)
    asked_at = time.perf_counter()
    generation = await _generate(host, request, run.spec.generation.max_tokens)
    latency_s = time.perf_counter() - asked_at
    text = generation.text.encode(errors="replace").decode()  # lone surrogates cannot be stored
    prediction = host.adapter.to_prediction(sample, text)
    answer = extract_answer(sample.kind, prediction, sample.options)
    answered = Answered(sample, text, prediction, answer, generation.finish_reason)
    attempt = Attempt(
        number=number,
        response=text,
        violations=find_violations(run.validators, answered),
        finish_reason=generation.finish_reason,
        temperature=plan.settings.temperature,
        seed=plan.settings.seed,
        latency_s=latency_s,
    )
    return Made(attempt, answered, generation)


async def _generate(host: EngineHost, request: Request, first_tokens: int) -> Generation:
    """Send a request to the engine. If it rejects a ``max_tokens`` above ``first_tokens``, retry with ``first_tokens``."""
    try:
        return await host.generate(request)
    except SampleError as error:
        # The truncated answer may have used all the tokens that an endpoint allows, or that its context has room for.
        if error.code not in ("engine_rejected", "too_long") or request.settings.max_tokens == first_tokens:
            raise
        settings = request.settings.model_copy(update={"max_tokens": first_tokens})
        return await host.generate(replace(request, settings=settings))
