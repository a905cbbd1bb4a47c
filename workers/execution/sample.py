"""Samples to outcomes: media, request, generation, prediction, validation, next attempt.  All at once, no barrier."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import structlog
from PIL.Image import Image

from common.answers.extract import extract_answer
from common.answers.validators import Answered, find_violations
from common.errors import ConfigError, EngineError, OutOfMemory, SampleError, TransientError
from common.records import Attempt, Outcome, Sample
from common.redaction import mask_text
from workers.engines.base import Generation, Request
from workers.execution.retry_ladder import plan_attempt
from workers.runtime.run_context import RunContext
from workers.runtime.worker import Slot

log = structlog.get_logger()

# How long a chunk's thread leaves finished outcomes to gather.  Waking it for each one would cost more than answering a
# quick sample; a crash costs those of the last moment as if they were still in flight.
_GATHER_S = 0.05
_MOST_AT_ONCE = 512  # outcomes in one batch; the journal's script takes some 8 000 arguments, two for each

# What an engine may raise that stops the chunk and not only the sample, the worst first; see ``workers/execution/look.py``.
CHUNK_FAULTS = (EngineError, ConfigError, TransientError)


def answer_samples(slot: Slot, run: RunContext, samples: Sequence[Sample], until: Callable[[], bool]) -> Iterator[list[Outcome]]:
    """Start all samples on the engine's loop and yield outcomes as they come, as many together as have finished.

    Ends early once ``until()`` holds, with the rest cancelled.  Raises, after what was finished, ``EngineError`` when the engine
    is gone, ``ConfigError`` when the user must act before it answers, and ``TransientError`` when it is away.
    """
    if until():
        return
    finished: list[Outcome] = []
    ended = threading.Event()
    answering = slot.submit(_answer_all(slot, run, samples, finished))
    answering.add_done_callback(lambda _: ended.set())
    taken = 0
    try:
        while not until():
            all_through = ended.wait(_GATHER_S)
            if len(finished) > taken:
                batch = finished[taken : taken + _MOST_AT_ONCE]
                taken += len(batch)
                yield batch
            if all_through and taken == len(finished):
                answering.result()
                return
    finally:
        answering.cancel()


async def _answer_all(slot: Slot, run: RunContext, samples: Sequence[Sample], finished: list[Outcome]) -> None:
    async def answer(sample: Sample) -> None:
        finished.append(await answer_sample(slot, run, sample))

    try:
        async with asyncio.TaskGroup() as group:
            for sample in samples:
                group.create_task(answer(sample))
    except* CHUNK_FAULTS as several:
        raise min(several.exceptions, key=_rank) from None


def _rank(fault: Exception) -> int:
    """Return the place in ``CHUNK_FAULTS``: a dead engine matters more than one that is away."""
    return next(place for place, kind in enumerate(CHUNK_FAULTS) if isinstance(fault, kind))


async def answer_sample(slot: Slot, run: RunContext, sample: Sample) -> Outcome:
    """Return the sample's single outcome.  Raises one of ``CHUNK_FAULTS`` for what is no sample's fault.

    A fault of its own becomes ``failed``; if it comes after an answer that was not accepted, the outcome stays ``invalid``
    and names the fault.
    """
    started_at = time.time()
    made: list[Made] = []
    error: SampleError | OutOfMemory | None = None
    try:
        await _ask_until_accepted(slot, run, sample, made)
    except (SampleError, OutOfMemory) as fault:
        error = fault.with_traceback(None)  # it leads to the frames that hold what was decoded, and back here
    except CHUNK_FAULTS:
        raise
    except (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as surprise:
        # A mistake about one sample, ours or of a package that calls sys.exit, must not stop the others.
        if _is_cancelled():
            raise asyncio.CancelledError from surprise
        log.exception("unexpected error", run_id=run.run_id, sample_id=sample.sample_id)
        error = SampleError("unexpected_error", f"{type(surprise).__name__}: {surprise}")
    return make_outcome(slot, run, sample, started_at, made, error)


def make_outcome(
    slot: Slot,
    run: RunContext,
    sample: Sample,
    started_at: float,
    made: Sequence["Made"] = (),
    error: SampleError | OutOfMemory | None = None,
) -> Outcome:
    """Return the outcome of a sample that was ``made`` so many attempts for, the last of which counts."""
    answered = _describe_answer(made[-1]) if made else {"status": "failed"}
    failure = {"error_code": error.code, "error_message": mask_text(str(error))} if error else {}
    return Outcome(
        sample_id=sample.sample_id,
        dataset=sample.dataset,
        index=sample.index,
        model=run.spec.model.name,
        target=sample.target,
        attempts=tuple(one.attempt for one in made),
        worker=slot.name,
        started_at=started_at,
        finished_at=time.time(),
        metadata=sample.metadata,
        **answered,
        **failure,
    )


def _is_cancelled() -> bool:
    """Return whether this task itself was asked to end, and not only something that it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Made(NamedTuple):
    """One attempt with all that is known of it."""

    attempt: Attempt
    answered: Answered
    generation: Generation


async def _ask_until_accepted(slot: Slot, run: RunContext, sample: Sample, made: list[Made]) -> None:
    """Append attempts to ``made`` until one has no violation or ``max_attempts`` are used up; a later wave has as many again."""
    if sample.fault is not None:
        raise SampleError(sample.fault.code, sample.fault.message)
    violations = sample.violations_before
    async with slot.hold_images(sample, run) as images:
        for number in range(sample.made_before + 1, sample.made_before + run.spec.validation.max_attempts + 1):
            made.append(await _make_attempt(slot, run, sample, images, number, violations))
            attempt = made[-1].attempt
            if not attempt.violations:
                return
            # A cut answer gets more room next time, also where `finished` is not among the validators.
            violations = (*attempt.violations, "finished") if attempt.finish_reason == "length" else attempt.violations


async def _make_attempt(
    slot: Slot, run: RunContext, sample: Sample, images: tuple[Image, ...], number: int, violations: tuple[str, ...]
) -> Made:
    plan = plan_attempt(sample, run.spec.generation, number, violations)
    prompt = slot.adapter.to_prompt(sample, images=len(images), reminder=plan.reminder)
    request = Request(sample.sample_id, prompt.messages, images, plan.settings, number, prompt.template_options)
    asked_at = time.perf_counter()
    generation = await _generate(slot, request, run.spec.generation.max_tokens)
    latency_s = time.perf_counter() - asked_at
    text = generation.text.encode(errors="replace").decode()  # lone surrogates cannot be stored
    prediction = slot.adapter.to_prediction(sample, text)
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


async def _generate(slot: Slot, request: Request, first_tokens: int) -> Generation:
    """Ask the engine.  If it refuses a request that has more room than the first attempt had, ask again with that room."""
    try:
        return await slot.generate(request)
    except SampleError as error:
        # A cut answer may have come from all the room that an endpoint allows.
        if error.code != "engine_rejected" or request.settings.max_tokens == first_tokens:
            raise
        settings = request.settings.model_copy(update={"max_tokens": first_tokens})
        return await slot.generate(replace(request, settings=settings))


def _describe_answer(made: Made) -> dict[str, Any]:
    return {
        "status": "invalid" if made.attempt.violations else "ok",
        "prediction": made.answered.prediction,
        "answer": made.answered.answer,
        "response": made.answered.text,
        "finish_reason": made.generation.finish_reason,
        "prompt_tokens": made.generation.prompt_tokens,
        "output_tokens": made.generation.output_tokens,
    }
