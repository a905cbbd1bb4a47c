"""The openai engine: any endpoint that speaks OpenAI's chat completions (Gemini's, ``vllm serve``, a gateway).  Needs no GPU."""

import asyncio
import logging
import random
import ssl

import httpx2
import structlog

from common.errors import ConfigError, EngineError, SampleError, TransientError
from common.settings import get_settings
from common.spec.files import check
from common.spec.models import ModelProfile, SamplingParams
from workers.engines.base import Generation, Message, Request
from workers.engines.openai.errors import SILENCE, Endpoint, EndpointFault, sort_error, sort_status
from workers.engines.openai.options import OpenAIOptions, find_base_url, read_key
from workers.engines.openai.pacing import Backoff, Clock, Gate, Pulse, Trial
from workers.engines.openai.wire import read_generation, write_body

log = structlog.get_logger()

_CONNECT_S = 10.0
_CONTROL_S = 30.0  # for the control question, of which any endpoint that is there makes short work
_QUIET_S = 60.0  # between two lines in the log about an endpoint in trouble

# What the engine sends besides the key. httpx2 adds only what HTTP itself needs (Host, Content-Length, Accept-Encoding).
_HEADERS = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "vlm-fleet"}
_CONTROL = Request("control", (Message("user", "Say ok."),), (), SamplingParams(max_tokens=16))


class OpenAIEngine:
    """Asks an endpoint, ``concurrency`` requests at once, each until it is answered or the endpoint's patience is used up.

    ``weights`` is the model's name at the endpoint.  Besides what every engine raises, ``generate`` raises ``TransientError``
    when the endpoint has answered nobody for ``patience_s``, and ``ConfigError`` when it does not know the key or the model.
    """

    def __init__(self, profile: ModelProfile, weights: str, *, clock: Clock | None = None, seed: int | None = None) -> None:
        self._profile = profile
        self._model = weights
        self._where = f"profile {profile.name}: engine_options"
        self._options = check(OpenAIOptions, profile.engine_options, self._where)
        self._clock = clock or Clock()
        self._random = random.Random(seed)  # noqa: S311  # of the pauses after faults: workers must not keep step
        self._permits = asyncio.Semaphore(self._options.concurrency)
        self._gate = Gate(self._options.interval_s, self._options.patience_s, self._clock)
        self._pulse = Pulse(self._clock)
        self._quiet_until_s = self._clock.now_s()
        self._open: set[asyncio.Task[Generation]] = set()  # one for every request that somebody awaits
        self._client: httpx2.AsyncClient | None = None

    async def start(self) -> None:
        """Find key and address; the endpoint itself is asked nothing.  Raises ``ConfigError`` for what the user must change."""
        options = self._options
        # A request is given up after its patience and the try that then runs, or after four tries without an answer.
        longest_s = max(options.patience_s, 3 * options.timeout_s) + options.timeout_s + _CONTROL_S
        if longest_s >= (stall_s := get_settings().engine_stall_s):
            raise ConfigError(
                f"{self._where}: with patience_s={options.patience_s:g} and timeout_s={options.timeout_s:g} a request may take "
                f"{longest_s:g} s, but FLEET_ENGINE_STALL_S={stall_s:g} is less: set it higher, or these lower"
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
        asking = asyncio.create_task(self._answer(request))
        self._open.add(asking)
        asking.add_done_callback(self._open.discard)
        try:
            return await asking
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            raise EngineError("the openai engine was stopped") from None

    async def stop(self) -> None:
        client, self._client = self._client, None
        for asking in self._open:
            asking.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        if client:
            await client.aclose()

    async def _answer(self, request: Request) -> Generation:
        async with self._permits:  # held to the end, so that at most `concurrency` requests hold their images encoded
            body = await asyncio.to_thread(write_body, request, self._model, self._options)
            return await self._ask_patiently(body)

    async def _ask_patiently(self, body: bytes) -> Generation:
        """Ask until there is an answer.  Raises ``SampleError`` as soon as the fault is known to be the request's own."""
        await self._gate.pass_through()
        trial = Trial(self._pulse, self._options.patience_s, self._clock)
        backoff = Backoff(self._random)
        while True:
            try:
                return await self._ask(body, self._options.timeout_s)
            except EndpointFault as fault:
                await self._weigh_fault(fault, trial)
            await self._clock.sleep(backoff.next_s())
            await self._gate.pass_through()

    async def _weigh_fault(self, fault: EndpointFault, trial: Trial) -> None:
        """Return if the request is to be tried again.

        Where nobody else is asked, a control question tells whether the endpoint is away or fails this request alone.  Raises
        ``SampleError`` for the latter, and for the former, once patience has ended, ``TransientError``, or ``ConfigError``
        where the user must change something.
        """
        self._tell(fault)
        trial.note_fault(fault.weight)
        if trial.is_at_fault:
            message = f"the endpoint fails this request again and again, and answers others meanwhile: {fault}"
            raise SampleError("engine_failed", message)
        is_alone = trial.is_doubted and await self._ask_control()
        if fault.wait_s and not is_alone:  # else the pause is meant for this request, which comes to its end now
            self._gate.pause(fault.wait_s)
        if not trial.is_doubted and fault.weight and (trial.blame or fault.weight == SILENCE):
            await self._ask_control()
        if trial.is_over():
            message = f"the endpoint has answered nothing for {self._options.patience_s:g} s: {fault}"
            raise fault.if_lasting or TransientError(message)

    async def _ask_control(self) -> bool:
        """Ask something that no endpoint fails at.  Return whether there was an answer, which beats the pulse."""
        await self._gate.pass_through()
        try:
            await self._ask(write_body(_CONTROL, self._model, self._options), min(_CONTROL_S, self._options.timeout_s))
        except EndpointFault as error:
            log.debug("control question", error=str(error))
            return False
        except SampleError as error:
            log.debug("control question", error=str(error))
        return True

    async def _ask(self, body: bytes, timeout_s: float) -> Generation:
        """Make one request.  Raises ``EndpointFault``, ``SampleError`` and ``ConfigError``."""
        try:
            generation = read_generation(await self._post(body, timeout_s))
        except SampleError:
            self._pulse.beat()
            raise
        self._pulse.beat()
        return generation

    async def _post(self, body: bytes, timeout_s: float) -> bytes:
        if self._client is None:
            raise EngineError("the openai engine was stopped")
        try:
            async with asyncio.timeout(timeout_s):  # the client's own limit is between two pieces of an answer
                response = await self._client.post("/chat/completions", content=body)
        except TimeoutError:
            raise EndpointFault(f"{self._endpoint.base_url} did not answer within {timeout_s:g} s", weight=SILENCE) from None
        except (httpx2.RequestError, ssl.SSLError) as error:  # httpx2 wraps TLS errors of the handshake, and none after it
            raise sort_error(error, self._endpoint) from None
        if not response.is_success:
            raise sort_status(response, self._endpoint)
        return response.content

    def _tell(self, fault: EndpointFault) -> None:
        """Log a fault, the first of many."""
        if self._clock.now_s() >= self._quiet_until_s:
            self._quiet_until_s = self._clock.now_s() + _QUIET_S
            log.warning("endpoint in trouble; trying again", error=str(fault), asked_to_wait_s=fault.wait_s)


def _is_cancelled() -> bool:
    """Return whether this task itself was asked to end, and not only what it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
