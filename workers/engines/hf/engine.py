"""The transformers engine: batches formed from whatever is waiting, halved when they do not fit into memory."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from common.errors import EngineError, OutOfMemory, SampleError
from common.spec.files import check
from common.spec.models import ModelProfile
from workers.engines.base import Generation, Request
from workers.engines.hf.batching import BatchLimit, Waiting, form_batch
from workers.engines.hf.model import HfModel, HfOptions

P = ParamSpec("P")
T = TypeVar("T")


class HfEngine:
    """Runs a model of the ``AutoModelForImageTextToText`` family.

    Two threads: one prepares inputs (tokens, resized images), one runs the model.  While a batch runs, the next one is
    prepared if enough requests wait to fill it, so that the device does not wait for the images.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        self._profile = profile
        self._weights = weights
        self._options = check(HfOptions, profile.engine_options, f"profile {profile.name}: engine_options")
        self._limit = BatchLimit(self._options.max_batch_size)
        self._model_thread = ThreadPoolExecutor(1, "hf-model")
        self._prepare_thread = ThreadPoolExecutor(1, "hf-prepare")
        self._fault: EngineError | None = EngineError("the engine is not running")
        self._model: HfModel | None = None
        self._open: set[Waiting] = set()  # every request that somebody awaits
        self._waiting: list[Waiting] = []  # those in no batch yet, in order of arrival
        self._changed = asyncio.Event()  # a request came, or a batch ended
        self._running: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._model = await _call(self._model_thread, HfModel, self._profile, self._weights, self._options)
        self._serving = asyncio.create_task(self._serve(self._model))
        self._serving.add_done_callback(lambda task: self._fail(EngineError(f"the engine's loop ended: {task}")))
        self._fault = None

    async def generate(self, request: Request) -> Generation:
        if self._fault or self._model is None:
            raise EngineError(str(self._fault))
        one = Waiting(request, self._model.render(request), asyncio.get_running_loop().create_future())
        self._open.add(one)
        self._waiting.append(one)
        self._changed.set()
        try:
            return await one.future
        finally:
            self._open.discard(one)

    async def stop(self) -> None:
        self._fail(EngineError("the engine was stopped"))
        tasks = [task for task in (self._serving, self._running) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The batch that runs ends at its next token, because all its requests have failed.
        for thread in (self._prepare_thread, self._model_thread):
            await asyncio.to_thread(thread.shutdown, cancel_futures=True)
        if self._model:
            self._model.release()
            self._model = None

    async def _serve(self, model: HfModel) -> None:
        """Form, prepare and run one batch after the other, for ever."""
        while True:
            while not self._has_batch():
                self._changed.clear()
                await self._changed.wait()
            batch = form_batch(self._waiting, self._limit.size)
            chosen = set(batch)
            self._waiting = [one for one in self._waiting if one not in chosen]
            prepared = asyncio.create_task(_call(self._prepare_thread, model.prepare, batch))
            if self._running:
                await self._running
            self._running = asyncio.create_task(self._answer(model, batch, prepared))
            self._running.add_done_callback(lambda _: self._changed.set())

    def _has_batch(self) -> bool:
        """Drop the requests that were cancelled; say whether to form a batch: the model is idle, or a full one waits."""
        self._waiting = [one for one in self._waiting if not one.future.done()]
        is_idle = self._running is None or self._running.done()
        return bool(self._waiting) and (is_idle or len(self._waiting) >= self._limit.size)

    async def _answer(self, model: HfModel, batch: Sequence[Waiting], prepared: Awaitable[Any]) -> None:
        """Run one batch and resolve its futures; never raises.

        A batch that does not fit into memory is run again in halves; one that fails otherwise request by request, to
        find the faulty one.  A request that fails alone gets the fault; a dead device fails everybody.
        """
        fault: SampleError
        try:
            generations = await _call(self._model_thread, model.generate, batch, await prepared)
        except SampleError as error:
            fault = error
        except Exception as error:  # noqa: BLE001  whatever went wrong, nobody may wait for an answer that never comes
            self._fail(error if isinstance(error, EngineError) else EngineError(f"the engine failed: {error!r}"))
            return
        else:
            self._limit.succeed(len(batch))
            for one, generation in zip(batch, generations, strict=True):
                if not one.future.done():
                    one.future.set_result(generation)
            return
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_exception(fault)
            return
        for part in self._split(batch, fault):
            if awaited := [one for one in part if not one.future.done()]:
                await self._answer(model, awaited, _call(self._prepare_thread, model.prepare, awaited))

    def _split(self, batch: Sequence[Waiting], fault: SampleError) -> list[Sequence[Waiting]]:
        if isinstance(fault, OutOfMemory):
            self._limit.shrink(len(batch))
            middle = len(batch) // 2
            return [batch[:middle], batch[middle:]]
        return [[one] for one in batch]

    def _fail(self, fault: EngineError) -> None:
        """Fail every open request and all that come later."""
        self._fault = fault
        self._waiting.clear()
        for one in self._open:
            if not one.future.done():
                one.future.set_exception(EngineError(str(fault)))


async def _call(thread: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what ``function`` returns, called on ``thread``."""
    return await asyncio.get_running_loop().run_in_executor(thread, lambda: function(*args, **kwargs))
