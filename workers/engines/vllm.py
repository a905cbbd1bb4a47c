"""The vLLM engine: requests go to vLLM one by one as they come, and it batches them continuously in a process of its own."""

import asyncio
import os
from dataclasses import fields
from typing import Any

# Before vLLM is imported.  A worker has many threads and open connections, and a fork of it may hang on any of their locks.
os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # what a fleet runs is nobody else's business

import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.renderers import ChatParams
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from common.errors import ConfigError, EngineError, OutOfMemory, SampleError
from common.records import FinishReason
from common.spec.models import ModelProfile, SamplingParams
from common.spelling import suggest
from workers.engines.base import Generation, Request

# Fields of the profile that vLLM knows by these names.
_SET_BY_PROFILE = {"model": "weights", "revision": "revision", "trust_remote_code": "trust_remote_code"}
# vLLM ends an answer with "repetition" when it goes round in circles, if told to look: cut, as by max_tokens.
_FINISH_REASONS: dict[str | None, FinishReason] = {"stop": "stop", "length": "length", "repetition": "length"}
_MESSAGE_CHARACTERS = 500

# Prompts that are rendered at once.  vLLM's threads take them stage by stage: with hundreds, the first would reach the engine
# only after the template of the last.
_RENDERED_AT_ONCE = 8


class VllmEngine:
    """Runs a model in vLLM 0.25 to 0.32.

    ``engine_options`` are vLLM's own (``AsyncEngineArgs``): ``tensor_parallel_size``, ``gpu_memory_utilization``,
    ``max_model_len``, ``limit_mm_per_prompt``, ``quantization``, ...  Sampling is as the request says and nothing else: what
    the model's ``generation_config.json`` suggests is left out, of which only the end tokens are kept.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        self._profile = profile
        self._options = {
            "disable_log_stats": True,
            **check_options(profile),
            "model": weights,
            "revision": profile.revision,
            "trust_remote_code": profile.trust_remote_code,
        }
        self._llm: AsyncLLM | None = None
        self._answering: set[asyncio.Task[Generation]] = set()
        self._rendering = asyncio.Semaphore(_RENDERED_AT_ONCE)

    async def start(self) -> None:
        """Load the model.  Blocks this loop meanwhile: vLLM ties itself to the loop that it is made on."""
        where = f"profile {self._profile.name}"
        try:
            # As vLLM's server: without a word on what for, it would choose batches for small machines.
            config = AsyncEngineArgs(**self._options).create_engine_config(UsageContext.OPENAI_API_SERVER)
        except Exception as error:
            # pydantic's errors, ValueError, OSError for weights that are not there, TypeError: all about what was given
            raise ConfigError(f"{where}: vLLM refuses the weights or the engine_options: {error}") from error
        try:
            self._llm = AsyncLLM.from_vllm_config(config, disable_log_stats=self._options["disable_log_stats"])
        except Exception as error:
            raise EngineError(f"{where}: vLLM could not start, its log above says why: {error}") from error

    async def generate(self, request: Request) -> Generation:
        """Return one generation.  A cancelled call takes its request out of vLLM.

        Raises ``SampleError`` (``OutOfMemory`` among them) for a request at fault, and ``EngineError`` when vLLM's engine
        process is gone or going.
        """
        llm = self._llm
        if llm is None:
            raise EngineError("the vLLM engine is not running")
        answering = asyncio.create_task(self._answer(llm, request))
        self._answering.add(answering)
        answering.add_done_callback(self._answering.discard)
        try:
            return await answering
        except asyncio.CancelledError:
            if self._llm is llm:
                raise
            raise EngineError("the vLLM engine was stopped") from None

    async def stop(self) -> None:
        """Give the accelerator back.  vLLM itself would leave those that still wait to wait for ever."""
        llm, self._llm = self._llm, None
        if llm is not None:
            waiting = tuple(self._answering)
            for answering in waiting:
                answering.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            llm.shutdown()

    async def _answer(self, llm: AsyncLLM, request: Request) -> Generation:
        try:
            async with self._rendering:
                prompt = await self._render(llm, request)
            # Only the end of the answer is awaited, so nothing is passed on for each token.
            async for output in llm.generate(prompt, self.make_sampling_params(request), request.request_id):
                answer = output
        except Exception as error:  # chat templates and processors raise anything; sort_fault tells whose fault it is
            raise sort_fault(error, is_dead=llm.errored) from error
        completion = answer.outputs[0]
        finish_reason = read_finish_reason(completion.finish_reason)
        # With stop strings vLLM has written the text, without what follows them; it may well be empty.
        is_written = bool(request.settings.stop)
        tokenizer = llm.renderer.get_tokenizer()
        text = completion.text if is_written else tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        return Generation(text, finish_reason, len(answer.prompt_token_ids or ()), len(completion.token_ids))

    async def _render(self, llm: AsyncLLM, request: Request) -> Any:
        """Return the prompt as vLLM's engine takes it: tokens, and images through the model's processor, on vLLM's own threads."""
        template = ChatParams(chat_template_kwargs={"add_generation_prompt": True, **request.template_options})
        _, (prompt,) = await llm.renderer.render_chat_async([to_conversation(request)], template)
        return prompt

    def make_sampling_params(self, request: Request) -> vllm.SamplingParams:
        """Return how vLLM is to sample for a request."""
        return to_sampling_params(request.settings)


def check_options(profile: ModelProfile) -> dict[str, Any]:
    """Return the profile's engine options.  Raises ``ConfigError`` for a name that this vLLM does not know."""
    known = sorted(field.name for field in fields(AsyncEngineArgs))
    for name in profile.engine_options:
        where = f"profile {profile.name}: engine_options: {name}"
        if name in _SET_BY_PROFILE:
            raise ConfigError(f"{where}: is set by the profile's own field {_SET_BY_PROFILE[name]!r}; take it out here")
        if name not in known:
            raise ConfigError(f"{where}: unknown option of vLLM{suggest(name, known)}; expected a field of its AsyncEngineArgs")
    return dict(profile.engine_options)


def to_conversation(request: Request) -> list[Any]:
    """Return the conversation as vLLM takes it, each message's images before its text."""
    images = iter(request.images)
    return [
        {
            "role": message.role,
            "content": [
                *({"type": "image_pil", "image_pil": next(images)} for _ in range(message.images)),
                {"type": "text", "text": message.text},
            ],
        }
        for message in request.messages
    ]


def to_sampling_params(settings: SamplingParams) -> vllm.SamplingParams:
    """Return generation settings in vLLM's words."""
    return vllm.SamplingParams(
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        stop=list(settings.stop),
        detokenize=bool(settings.stop),  # else the whole answer is decoded once, which costs this process much less
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def read_finish_reason(said: str | None) -> FinishReason:
    """Return why an answer ended, in our words.  What vLLM broke off is no answer, whatever there is of its text.

    Raises ``EngineError`` where the engine process is ending, and ``SampleError`` where it failed this request alone.
    """
    if said == "abort":
        # Nobody here aborts what is still awaited: the process was told to end (SLURM signals every one), and takes no more.
        raise EngineError("vLLM's engine process is ending: it broke the request off")
    if said not in _FINISH_REASONS:
        raise SampleError("engine_failed", f"vLLM's engine broke the request off; the reason it gives is {said!r}")
    return _FINISH_REASONS[said]


def sort_fault(error: Exception, *, is_dead: bool) -> EngineError | SampleError:
    """Return whose fault an exception is: the engine's if its process is gone, this machine's memory's, or else the request's."""
    while isinstance(error, EngineGenerateError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # vLLM's wrapping says nothing
    text = f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS]
    if is_dead or isinstance(error, EngineDeadError):
        return EngineError(f"vLLM's engine process is gone; its log above says why ({text})")
    if isinstance(error, MemoryError):
        return OutOfMemory(text)
    return SampleError("engine_rejected", text)
