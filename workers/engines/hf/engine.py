"""The transformers engine: forms batches from the pending requests, and halves a batch that does not fit into memory."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from common.errors import EngineError, OutOfMemory, SampleError
from common.spec.files import check
from common.spec.models import ModelProfile
from workers.engines.base import Generation, Request
from workers.engines.context import has_long_text
from workers.engines.hf.batching import BatchLimit, Waiting, form_batch
from workers.engines.hf.model import HfModel, HfOptions

P = ParamSpec("P")
T = TypeVar("T")


class HfEngine:
    """Runs a model of the ``AutoModelForImageTextToText`` family.

    One thread prepares the inputs (tokens, resized images), a second thread runs the model. While a batch runs, the next
    batch is prepared if there are enough pending requests to fill it, so that the device does not wait for image processing.
    A third thread renders long texts and refuses texts that are much longer than the context.
    Raises ``ConfigError`` for invalid ``engine_options``.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        self._profile = profile
        self._weights = weights
        self._options = check(HfOptions, profile.engine_options, f"profile {profile.name}: engine_options")
        self._limit = BatchLimit(self._options.max_batch_size)
        self._model_thread = ThreadPoolExecutor(1, "hf-model")
        self._prepare_thread = ThreadPoolExecutor(1, "hf-prepare")
        self._long_text_thread = ThreadPoolExecutor(1, "hf-long-text")
        self._fault: EngineError | None = EngineError("the engine is not running")
        self._model: HfModel | None = None
        self.takes_videos = False
        self._in_flight: set[Waiting] = set()  # requests whose caller awaits the answer
        self._waiting: list[Waiting] = []  # requests not yet in a batch, in order of arrival
        self._wakeup = asyncio.Event()  # set when a request arrives or a batch ends
        self._batch_task: asyncio.Task[None] | None = None
        self._scheduler_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the model and start the scheduler.

        Raises ``ConfigError`` if the weights or the options are invalid, ``EngineError`` if the machine cannot run the model.
        """
        self._model = await _call(self._model_thread, HfModel, self._profile, self._weights, self._options)
        self.takes_videos = self._model.takes_videos
        self._scheduler_task = asyncio.create_task(self._schedule_batches(self._model))
        self._scheduler_task.add_done_callback(lambda task: self._fail_all(EngineError(f"the engine's scheduler ended: {task}")))
        self._fault = None

    async def generate(self, request: Request) -> Generation:
        """Return one generation. A cancelled request ends at its next token.

        Raises ``SampleError`` (including ``OutOfMemory``) if the chat template rejects the request, its prompt fills the model's
        context or it fails when it runs alone, and ``EngineError`` if the engine is stopped or its device has failed.
        """
        model = self._running_model()
        if has_long_text(request):
            text = await _call(self._long_text_thread, self._render_long, request)
            self._running_model()
        else:
            text = model.render(request)
        pending = Waiting(request, text, asyncio.get_running_loop().create_future())
        self._in_flight.add(pending)
        self._waiting.append(pending)
        self._wakeup.set()
        try:
            return await pending.future
        finally:
            self._in_flight.discard(pending)

    async def stop(self) -> None:
        """Fail the requests in flight, stop both threads and release the device's memory."""
        self._fail_all(EngineError("the engine was stopped"))
        tasks = [task for task in (self._scheduler_task, self._batch_task) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The running batch ends at its next token, because all its requests have failed.
        for thread in (self._prepare_thread, self._model_thread):
            await asyncio.to_thread(thread.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._long_text_thread.shutdown)  # a waiting request fails immediately, because the fault is set
        if self._model:
            self._model.release()
            self._model = None

    def _running_model(self) -> HfModel:
        if self._fault or self._model is None:
            raise EngineError(str(self._fault))
        return self._model

    def _render_long(self, request: Request) -> str:
        return self._running_model().render_long(request)

    async def _schedule_batches(self, model: HfModel) -> None:
        """Form, prepare and run one batch after another, until cancelled."""
        while True:
            self._drop_cancelled()
            while not self._is_batch_due():
                self._wakeup.clear()
                await self._wakeup.wait()
                self._drop_cancelled()
            batch = form_batch(self._waiting, self._limit.size)
            chosen = set(batch)
            self._waiting = [pending for pending in self._waiting if pending not in chosen]
            prepared = asyncio.create_task(_call(self._prepare_thread, model.prepare, batch))
            if self._batch_task:
                await self._batch_task
            self._batch_task = asyncio.create_task(self._run_batch(model, batch, prepared))
            self._batch_task.add_done_callback(lambda _: self._wakeup.set())

    def _drop_cancelled(self) -> None:
        self._waiting = [pending for pending in self._waiting if not pending.future.done()]

    def _is_batch_due(self) -> bool:
        """Return whether to form a batch: requests wait, and either the model is idle or they fill a batch."""
        is_idle = self._batch_task is None or self._batch_task.done()
        return bool(self._waiting) and (is_idle or len(self._waiting) >= self._limit.size)

    async def _run_batch(self, model: HfModel, batch: Sequence[Waiting], prepared: Awaitable[Any]) -> None:
        """Run one batch and resolve its futures. Never raises.

        A batch that runs out of memory runs again in halves. A batch that fails with another ``SampleError`` runs again
        request by request, to find the request at fault. A request that fails alone gets the error. A failed device fails
        every request.
        """
        fault: SampleError
        try:
            batch, inputs = await self._drop_too_long(model, batch, await prepared)
            if not batch:
                return
            generations = await _call(self._model_thread, model.generate, batch, inputs)
        except SampleError as error:
            fault = error
        except Exception as error:  # noqa: BLE001  after any error, each future must be resolved: its caller awaits it
            self._fail_all(error if isinstance(error, EngineError) else EngineError(f"the engine failed: {error!r}"))
            return
        else:
            self._limit.succeed(len(batch))
            for pending, generation in zip(batch, generations, strict=True):
                if not pending.future.done():
                    pending.future.set_result(generation)
            return
        if len(batch) == 1:
            _fail(batch[0], fault)
            return
        for part in self._split(batch, fault):
            if awaited := [pending for pending in part if not pending.future.done()]:
                await self._run_batch(model, awaited, _call(self._prepare_thread, model.prepare, awaited))

    async def _drop_too_long(self, model: HfModel, batch: Sequence[Waiting], inputs: Any) -> tuple[Sequence[Waiting], Any]:
        """Fail the requests whose prompts fill the context. Return the others and their inputs."""
        fitting = []
        for pending, fault in zip(batch, model.find_too_long(inputs), strict=True):
            if fault is None:
                fitting.append(pending)
            else:
                _fail(pending, fault)
        if fitting and len(fitting) < len(batch):
            inputs = await _call(self._prepare_thread, model.prepare, fitting)
        return fitting, inputs

    def _split(self, batch: Sequence[Waiting], fault: SampleError) -> list[Sequence[Waiting]]:
        if isinstance(fault, OutOfMemory):
            self._limit.shrink(len(batch))
            middle = len(batch) // 2
            return [batch[:middle], batch[middle:]]
        return [[pending] for pending in batch]

    def _fail_all(self, fault: EngineError) -> None:
        """Fail every request in flight and every later request."""
        self._fault = fault
        self._waiting.clear()
        for pending in self._in_flight:
            _fail(pending, EngineError(str(fault)))


def _fail(pending: Waiting, fault: EngineError | SampleError) -> None:
    """Raise the fault in the caller, unless the request has ended already."""
    if not pending.future.done():
        pending.future.set_exception(fault)


async def _call(thread: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` on ``thread`` and return its result."""
    return await asyncio.get_running_loop().run_in_executor(thread, lambda: function(*args, **kwargs))
