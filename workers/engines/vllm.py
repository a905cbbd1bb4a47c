"""The vLLM engine.

Each request is submitted to vLLM as it arrives. vLLM batches continuously, in a separate process.
"""

import asyncio
import copy
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields
from typing import Any

# Set before vLLM is imported. A worker has many threads and open connections: a forked child may deadlock on any of their locks.
os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # do not send usage statistics to third parties

import vllm
from transformers import PreTrainedTokenizerBase
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from common.deaths import DeathCause, classify_exit, count_oom_kills
from common.errors import ConfigError, EngineError, OutOfMemory, SampleError
from common.records import FinishReason
from common.spec.models import ModelProfile, SamplingParams
from common.spelling import suggest
from workers.engines.base import Generation, Request, is_task_cancelled
from workers.engines.context import check_long_text, check_prompt_tokens, has_long_text
from workers.engines.load_faults import explain_load_failure
from workers.engines.vllm_rendering import render_request, takes_videos

# vLLM options that a field of the profile sets: option -> field.
_SET_BY_PROFILE = {"model": "weights", "revision": "revision", "trust_remote_code": "trust_remote_code"}
# vLLM reports "repetition" for an answer that repeats itself, if repetition detection is on: the answer is truncated, as by
# max_tokens.
_FINISH_REASONS: dict[str | None, FinishReason] = {"stop": "stop", "length": "length", "repetition": "length"}
_MESSAGE_CHARACTERS = 500
# vLLM's ``error`` means that the request can be sent again. It occurs if vLLM sent only the digest of an image that the engine
# process does not have: another request with this image was refused or cancelled, or the process removed it from its cache.
_MOST_SENDS = 3
_EXIT_S = 2.0  # how long to wait for the exit code of an engine process that vLLM reports as dead

# Limit of concurrent renders. vLLM's renderer threads work stage by stage. Without a limit, the first of hundreds of prompts
# would reach the engine only after the chat templates of all prompts.
_MAX_CONCURRENT_RENDERS = 8


class VllmEngine:
    """Runs a model in vLLM 0.25 to 0.32.

    ``engine_options`` are fields of vLLM's ``AsyncEngineArgs``: ``tensor_parallel_size``, ``gpu_memory_utilization``,
    ``max_model_len``, ``limit_mm_per_prompt``, ``quantization``, and so on. Only the request sets the sampling
    parameters. The model's ``generation_config.json`` sets only the end tokens.
    Raises ``ConfigError`` for an engine option that vLLM does not have.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        self._profile = profile
        self._options = {
            "disable_log_stats": True,
            # This applies if the model's chat template takes only texts. vLLM then keeps the place of each image in the text, and
            # joins texts and images with line breaks. Without it, all images come before the text.
            "interleave_mm_strings": True,
            **check_options(profile),
            "model": weights,
            "revision": profile.revision,
            "trust_remote_code": profile.trust_remote_code,
        }
        self._llm: AsyncLLM | None = None
        self.takes_videos = False
        self._oom_kills = count_oom_kills()
        self._generation_tasks: set[asyncio.Task[Generation]] = set()
        self._render_slots = asyncio.Semaphore(_MAX_CONCURRENT_RENDERS)
        self._long_text_thread = ThreadPoolExecutor(1, "vllm-long-text")
        self._long_text_tokenizer: Any = None

    async def start(self) -> None:
        """Load the model.

        Blocks the event loop until the model is loaded: vLLM binds itself to the loop on which it is created.
        Raises ``ConfigError`` if vLLM rejects the weights or the options, ``TransientError`` if they cannot be downloaded or
        read now, ``EngineError`` if vLLM cannot start.
        """
        where = f"profile {self._profile.name}"
        try:
            # The usage context of vLLM's server. Without a context, vLLM chooses batch sizes for small machines.
            config = AsyncEngineArgs(**self._options).create_engine_config(UsageContext.OPENAI_API_SERVER)
        except Exception as error:
            # Except in an outage, all errors concern the input: pydantic errors, ValueError, TypeError, OSError.
            raise explain_load_failure(error, f"{where}: vLLM refuses the weights or the engine_options: {error}") from error
        try:
            self._llm = AsyncLLM.from_vllm_config(config, disable_log_stats=self._options["disable_log_stats"])
            tokenizer = self._llm.renderer.get_tokenizer()
            self.takes_videos = await takes_videos(self._llm)
        except Exception as error:
            raise EngineError(f"{where}: vLLM cannot start: {error}; see the cause in its log above") from error
        # A transformers tokenizer serves one thread at a time, so copy it. Other tokenizers may not support a copy.
        self._long_text_tokenizer = copy.deepcopy(tokenizer) if isinstance(tokenizer, PreTrainedTokenizerBase) else tokenizer

    async def generate(self, request: Request) -> Generation:
        """Return one generation. Cancelling the call aborts its request in vLLM.

        Raises ``SampleError`` (including ``OutOfMemory``) if the request is at fault, for example if its prompt fills the context,
        and ``EngineError`` if vLLM's engine process has exited or is exiting.
        """
        llm = self._llm
        if llm is None:
            raise EngineError("the vLLM engine is not running")
        task = asyncio.create_task(self._generate(llm, request))
        self._generation_tasks.add(task)
        task.add_done_callback(self._generation_tasks.discard)
        try:
            return await task
        except asyncio.CancelledError:
            if is_task_cancelled():
                raise
            if self._llm is not llm:
                raise EngineError("the vLLM engine was stopped") from None
            # vLLM cancels the requests that it is sending when its engine process has exited.
            cause = await asyncio.to_thread(self._find_cause, llm)
            raise EngineError(
                "vLLM closed the connection to its engine process; see the cause in its log above", cause=cause
            ) from None

    async def stop(self) -> None:
        """Release the accelerator and fail the requests in flight.

        vLLM's own shutdown does not end the calls in flight.
        """
        llm, self._llm = self._llm, None
        if llm is not None:
            tasks = tuple(self._generation_tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(self._long_text_thread.shutdown, cancel_futures=True)
            llm.shutdown()

    async def _generate(self, llm: AsyncLLM, request: Request) -> Generation:
        try:
            if has_long_text(request):
                await asyncio.get_running_loop().run_in_executor(self._long_text_thread, self._check_long_texts, llm, request)
            for sent in range(_MOST_SENDS):
                if sent > 1:  # older versions of vLLM keep the digest of the missing image
                    await llm.reset_mm_cache()
                result = await self._send(llm, request)
                if result.outputs[0].finish_reason != "error":
                    break
        except SampleError:
            raise
        except Exception as error:  # chat templates and processors raise any error; classify_fault decides what is at fault
            fault = classify_fault(error, is_dead=llm.errored)
            if isinstance(fault, EngineError):
                fault.cause = await asyncio.to_thread(self._find_cause, llm)
            raise fault from error
        completion = result.outputs[0]
        finish_reason = read_finish_reason(completion.finish_reason)
        # With stop strings vLLM decodes the text itself and cuts it before the stop string. The text may be empty.
        is_decoded = bool(request.settings.stop)
        tokenizer = llm.renderer.get_tokenizer()
        text = completion.text if is_decoded else tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        return Generation(text, finish_reason, len(result.prompt_token_ids or ()), len(completion.token_ids))

    async def _send(self, llm: AsyncLLM, request: Request) -> vllm.RequestOutput:
        async with self._render_slots:
            prompt = await render_request(llm, request)
        # An encoder-decoder prompt does not have token ids here. vLLM checks its length.
        check_prompt_tokens(len(prompt.get("prompt_token_ids", ())), llm.model_config.max_model_len)
        # FINAL_ONLY: vLLM sends only the finished answer between its processes, not each token.
        async for output in llm.generate(prompt, self.make_sampling_params(request), request.request_id):
            result = output
        return result

    def _find_cause(self, llm: AsyncLLM) -> DeathCause:
        """Return the cause of death of vLLM's engine process. Block until the process has exited, for at most ``_EXIT_S``."""
        code = None
        if manager := llm.engine_core.resources.engine_manager:
            with suppress(ValueError):  # vLLM has closed the process object
                for process in manager.processes[:1]:
                    process.join(_EXIT_S)
                    code = process.exitcode or None  # vLLM exits with code 0 only after a signal
        return classify_exit(code, out_of_memory=count_oom_kills() > self._oom_kills)

    def _check_long_texts(self, llm: AsyncLLM, request: Request) -> None:
        """Raise ``SampleError`` (``too_long``) if the text is certainly longer than the context."""
        text = "\n".join(message.text for message in request.messages)
        check_long_text(text, llm.model_config.max_model_len, lambda piece: len(self._long_text_tokenizer.encode(piece)))

    def make_sampling_params(self, request: Request) -> vllm.SamplingParams:
        """Return vLLM's sampling parameters for the request."""
        return to_sampling_params(request.settings)


def check_options(profile: ModelProfile) -> dict[str, Any]:
    """Return the profile's engine options. Raises ``ConfigError`` for an option that the installed vLLM does not have."""
    known = sorted(field.name for field in fields(AsyncEngineArgs))
    for name in profile.engine_options:
        where = f"profile {profile.name}: engine_options: {name}"
        if name in _SET_BY_PROFILE:
            raise ConfigError(f"{where}: the profile field {_SET_BY_PROFILE[name]!r} sets it; remove it from engine_options")
        if name not in known:
            raise ConfigError(f"{where}: unknown option of vLLM{suggest(name, known)}; expected a field of vLLM's AsyncEngineArgs")
    return dict(profile.engine_options)


def to_sampling_params(settings: SamplingParams) -> vllm.SamplingParams:
    """Return the sampling parameters as vLLM's ``SamplingParams``."""
    return vllm.SamplingParams(
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        stop=list(settings.stop),
        detokenize=bool(settings.stop),  # without stop strings, decode once at the end, which takes much less CPU time
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def read_finish_reason(reason: str | None) -> FinishReason:
    """Return the finish reason for vLLM's ``reason``. An aborted request does not have an answer, even if it has some text.

    Raises ``EngineError`` if the engine process is exiting, ``SampleError`` (``engine_failed``) if only this request failed.
    """
    if reason == "abort":
        # This engine aborts only requests that callers have cancelled. So the process received SIGTERM (SLURM signals every
        # process of a step) and does not accept further requests.
        raise EngineError("vLLM's engine process is exiting: it aborted the request", cause=DeathCause.KILL)
    if reason not in _FINISH_REASONS:
        raise SampleError("engine_failed", f"vLLM's engine aborted the request with finish reason {reason!r}")
    return _FINISH_REASONS[reason]


def classify_fault(error: Exception, *, is_dead: bool) -> EngineError | SampleError:
    """Return the exception as a fleet error.

    The result is ``EngineError`` if the engine process has exited (``is_dead``), ``OutOfMemory`` if this process ran out of
    memory, and otherwise a ``SampleError`` of the request.
    """
    while isinstance(error, EngineGenerateError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # vLLM's wrapper does not have a message
    text = f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS]
    if is_dead or isinstance(error, EngineDeadError):
        return EngineError(f"vLLM's engine process has exited ({text}); see the cause in its log above")
    if isinstance(error, MemoryError):
        return OutOfMemory(text)
    return SampleError("engine_rejected", text)
