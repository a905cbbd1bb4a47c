"""The openai engine: any endpoint with OpenAI's chat-completions API (Gemini's, ``vllm serve``, a gateway). No GPU is needed."""

import asyncio
import logging
import random
import ssl
from dataclasses import replace

import httpx2
import structlog

from common.errors import ConfigError, EngineError, SampleError, TransientError
from common.settings import get_settings
from common.spec.files import check
from common.spec.models import ModelProfile, SamplingParams
from workers.engines.base import Generation, Message, Request, is_task_cancelled
from workers.engines.context import has_long_text, refuse_prompt
from workers.engines.openai.errors import NO_ANSWER_WEIGHT, Endpoint, EndpointError, classify_exception, classify_status
from workers.engines.openai.options import OpenAIOptions, find_base_url, read_key
from workers.engines.openai.overrun import TooLong
from workers.engines.openai.pacing import Backoff, Clock, RateLimiter, ResponseTracker, RetryState
from workers.engines.openai.wire import read_context, read_generation, write_body

log = structlog.get_logger()

_CONNECT_S = 10.0
_CONTROL_S = 30.0  # timeout of the control request, which any working endpoint answers quickly
_CHARACTERS_PER_TOKEN = 256  # at most: twice the longest entry of common vocabularies
_WARNING_INTERVAL_S = 60.0  # least time between two log lines about endpoint errors

# The headers besides the key. httpx2 adds only headers that HTTP itself requires (Host, Content-Length, Accept-Encoding).
_HEADERS = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "vlm-fleet"}
_CONTROL = Request("control", (Message("user", ("Say ok.",)),), (), SamplingParams(max_tokens=16))


class OpenAIEngine:
    """Sends up to ``concurrency`` concurrent requests. Retries each request until it is answered or the patience ends.

    ``weights`` is the model's name at the endpoint. In addition to the errors of every engine, ``generate`` raises
    ``TransientError`` if the endpoint has been unavailable for ``patience_s``, and ``ConfigError`` if the endpoint rejects the
    key or the model. An endpoint is unavailable while every request ends with an ``EndpointError``.
    """

    def __init__(self, profile: ModelProfile, weights: str, *, clock: Clock | None = None, seed: int | None = None) -> None:
        self._profile = profile
        self._model = weights
        self._where = f"profile {profile.name}: engine_options"
        self._options = check(OpenAIOptions, profile.engine_options, self._where)
        self._clock = clock or Clock()
        # The backoff must differ between workers, so that they do not retry at the same moment.
        self._random = random.Random(seed)  # noqa: S311
        self._permits = asyncio.Semaphore(self._options.concurrency)
        self._limiter = RateLimiter(self._options.interval_s, self._options.patience_s, self._clock)
        self._responses = ResponseTracker(self._clock)
        self._next_warning_at_s = self._clock.now_s()
        self._tasks: set[asyncio.Task[Generation]] = set()  # one for each call of `generate` that has not returned
        self._client: httpx2.AsyncClient | None = None
        self._context_request: asyncio.Task[int | None] | None = None

    async def start(self) -> None:
        """Read the key and the address. Do not send a request. Raises ``ConfigError`` if the user must change one of them."""
        options = self._options
        # A request ends after its patience and the try that runs at that time, or after four tries without a response.
        longest_s = max(options.patience_s, 3 * options.timeout_s) + options.timeout_s + _CONTROL_S
        if longest_s >= (stall_s := get_settings().engine_stall_s):
            raise ConfigError(
                f"{self._where}: with patience_s={options.patience_s:g} and timeout_s={options.timeout_s:g} a request may take "
                f"{longest_s:g} s, but FLEET_ENGINE_STALL_S={stall_s:g} is not more than that; raise it, or lower patience_s or "
                "timeout_s"
            )
        key = read_key(options, f"profile {self._profile.name}")
        self._endpoint = Endpoint(self._profile.name, self._model, find_base_url(options), options.api_key_env)
        self._client = httpx2.AsyncClient(
            base_url=self._endpoint.base_url,
            headers=_HEADERS | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx2.Timeout(options.timeout_s, connect=min(_CONNECT_S, options.timeout_s)),
            # `concurrency` bounds the connections. A limit of the pool would time out a request that waits for a connection.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=options.concurrency),
            follow_redirects=True,
        )
        if not logging.getLogger().isEnabledFor(logging.DEBUG):
            logging.getLogger("httpx2").setLevel(logging.WARNING)  # at INFO it writes a line for every request

    async def generate(self, request: Request) -> Generation:
        if self._client is None:
            raise EngineError("the openai engine is not running")
        task = asyncio.create_task(self._answer(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await task
        except asyncio.CancelledError:
            if is_task_cancelled():
                raise
            raise EngineError("the openai engine was stopped") from None

    async def stop(self) -> None:
        client, self._client = self._client, None
        tasks = [*self._tasks, *([self._context_request] if self._context_request else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if client:
            await client.aclose()

    async def _answer(self, request: Request) -> Generation:
        async with self._permits:  # held until the end, so that at most `concurrency` requests hold encoded images
            if has_long_text(request):
                await self._check_long_text(request)
            body = await asyncio.to_thread(write_body, request, self._model, self._options)
            try:
                return await self._ask_until_answered(body)
            except TooLong as fault:
                if fault.room is None or fault.room >= request.settings.max_tokens:
                    raise
                settings = request.settings.model_copy(update={"max_tokens": fault.room})
            body = await asyncio.to_thread(write_body, replace(request, settings=settings), self._model, self._options)
            return await self._ask_until_answered(body)

    async def _check_long_text(self, request: Request) -> None:
        """Raise ``SampleError`` (``too_long``) if the text is certainly longer than the context that the endpoint states."""
        if self._context_request is None:
            self._context_request = asyncio.create_task(self._ask_context())
        context_tokens = await asyncio.shield(self._context_request)
        least_tokens = sum(len(message.text) for message in request.messages) // _CHARACTERS_PER_TOKEN
        if context_tokens is not None and least_tokens >= context_tokens:
            raise refuse_prompt(f"at least {least_tokens}", context_tokens)

    async def _ask_context(self) -> int | None:
        """Return the context of the model in tokens, or ``None`` if the endpoint does not state it."""
        if self._client is None:
            raise EngineError("the openai engine was stopped")
        try:
            async with asyncio.timeout(min(_CONTROL_S, self._options.timeout_s)):
                response = await self._client.get("/models")
        except (TimeoutError, httpx2.RequestError, ssl.SSLError) as error:
            log.debug("endpoint.models_failed", error=str(error))
            self._context_request = None  # the next long text sends the request again
            return None
        return read_context(response.content, self._model) if response.is_success else None

    async def _ask_until_answered(self, body: bytes) -> Generation:
        """Retry a request until it is answered. Raises ``SampleError`` as soon as the request itself is known to be the cause."""
        await self._limiter.wait()
        state = RetryState(self._responses, self._options.patience_s, self._clock)
        backoff = Backoff(self._random)
        while True:
            try:
                return await self._ask(body, self._options.timeout_s)
            except EndpointError as error:
                await self._handle_error(error, state)
            await self._clock.sleep(backoff.next_s())
            await self._limiter.wait()

    async def _handle_error(self, error: EndpointError, state: RetryState) -> None:
        """Return if the request must be retried.

        If no other request is in flight, a control request shows whether the endpoint is unavailable or fails only this
        request. Raises ``SampleError`` if it fails only this request. If it is unavailable and the patience has ended, raises
        ``TransientError``, or ``ConfigError`` if the user must change something.
        """
        self._log_error(error)
        state.record_error(error.weight)
        if state.is_at_fault:
            message = f"the endpoint fails this request repeatedly but answers other requests: {error}"
            raise SampleError("engine_failed", message)
        is_only_this_request = state.patience_ended and await self._ask_control()
        if error.retry_after_s and not is_only_this_request:  # otherwise the pause would delay other requests needlessly
            self._limiter.pause(error.retry_after_s)
        if not state.patience_ended and error.weight and (state.error_weight or error.weight == NO_ANSWER_WEIGHT):
            await self._ask_control()
        if state.is_patience_over():
            message = f"the endpoint has been unavailable for {self._options.patience_s:g} s; last error: {error}"
            raise error.if_permanent or TransientError(message)

    async def _ask_control(self) -> bool:
        """Send a request that every working endpoint answers, record the response, and return whether one arrived."""
        await self._limiter.wait()
        try:
            await self._ask(write_body(_CONTROL, self._model, self._options), min(_CONTROL_S, self._options.timeout_s))
        except EndpointError as error:
            log.debug("endpoint.control_failed", error=str(error))
            return False
        except SampleError as error:  # this is also a response: the endpoint works
            log.debug("endpoint.control_failed", error=str(error))
        return True

    async def _ask(self, body: bytes, timeout_s: float) -> Generation:
        """Send one request once. Raises ``EndpointError``, ``SampleError`` and ``ConfigError``."""
        try:
            generation = read_generation(await self._post(body, timeout_s))
        except SampleError:
            self._responses.record()
            raise
        self._responses.record()
        return generation

    async def _post(self, body: bytes, timeout_s: float) -> bytes:
        if self._client is None:
            raise EngineError("the openai engine was stopped")
        try:
            async with asyncio.timeout(timeout_s):  # the client's timeout bounds only the time between two pieces of a response
                response = await self._client.post("/chat/completions", content=body)
        except TimeoutError:
            message = f"{self._endpoint.base_url} did not answer within {timeout_s:g} s"
            raise EndpointError(message, weight=NO_ANSWER_WEIGHT) from None
        except (httpx2.RequestError, ssl.SSLError) as error:  # httpx2 wraps TLS errors only during the handshake
            raise classify_exception(error, self._endpoint) from None
        if not response.is_success:
            raise classify_status(response, self._endpoint)
        return response.content

    def _log_error(self, error: EndpointError) -> None:
        """Log an error, at most once a minute, because every request fails during an outage."""
        if self._clock.now_s() >= self._next_warning_at_s:
            self._next_warning_at_s = self._clock.now_s() + _WARNING_INTERVAL_S
            log.warning("endpoint.unavailable", error=str(error), retry_after_s=error.retry_after_s)
