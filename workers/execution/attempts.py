"""Ask one question until an answer is valid: request, generation, prediction, validation, next attempt."""

import time
from dataclasses import replace
from typing import NamedTuple

from common.answers.extract import extract_answer
from common.answers.validators import Answered, Validator, find_violations
from common.errors import SampleError
from common.records import Attempt, Sample, VideoInput
from workers.engines.base import Generation, Request
from workers.execution.requests import Placed
from workers.execution.retry_ladder import plan_attempt
from workers.runtime.engine_host import EngineHost
from workers.runtime.run_context import RunContext

Validators = tuple[tuple[str, Validator], ...]


class Made(NamedTuple):
    """One attempt, with the answer in the form that validators check, and the generation."""

    attempt: Attempt
    answered: Answered
    generation: Generation


async def ask_until_valid(
    host: EngineHost, run: RunContext, sample: Sample, asked: Placed, validators: Validators, made: list[Made]
) -> None:
    """Append attempts to ``made`` until one is valid or ``max_attempts`` are used up. Each wave has ``max_attempts``."""
    violations = sample.violations_before
    for number in range(sample.made_before + 1, sample.made_before + run.spec.validation.max_attempts + 1):
        made.append(await _make_attempt(host, run, sample, asked, validators, number, violations))
        attempt = made[-1].attempt
        if not attempt.violations:
            return
        # A truncated answer gets more tokens in the next attempt, even if `finished` is not among the validators.
        violations = (*attempt.violations, "finished") if attempt.finish_reason == "length" else attempt.violations


async def _make_attempt(
    host: EngineHost,
    run: RunContext,
    sample: Sample,
    asked: Placed,
    validators: Validators,
    number: int,
    violations: tuple[str, ...],
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
        violations=find_violations(validators, answered),
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
