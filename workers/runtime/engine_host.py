"""The engine of a worker process, on a separate event loop and thread, with the adapter and the media loader."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import structlog

from common.records import Media
from workers.adapters.base import Adapter
from workers.engines.base import Engine, Generation, Request
from workers.media.loader import Decoded, MediaLoader
from workers.recovery.stall_detector import StallDetector
from workers.recovery.watchdog import Watchdog
from workers.runtime.run_context import RunContext

log = structlog.get_logger()

_LATEST_WEIGHT = 0.05  # the weight of one answer in the moving average of latencies, which covers about 20 answers
_STOP_S = 10.0  # an engine that takes longer to stop counts as hung; the launcher waits only a little longer

Result = TypeVar("Result")


class EngineHost:
    """Turns requests into generations. The task threads of a worker share one host.

    Sample code runs as coroutines on the engine's loop, so that all samples of all chunks reach the engine together.
    ``load_s`` is the loading time in seconds. ``latency_s`` is the moving average of the time to an answer, or ``None`` before
    the first answer.
    """

    def __init__(self, worker: str, engine: Engine, adapter: Adapter, media: MediaLoader, *, stall_s: float) -> None:
        self.worker = worker
        self.engine = engine
        self.adapter = adapter
        self._media = media
        self._stall_s = stall_s
        self._stalls = StallDetector()
        self._watchdog = Watchdog(stall_s)
        self.load_s = 0.0
        self.latency_s: float | None = None
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread

    @property
    def takes_videos(self) -> bool:
        """Return whether the loaded model has a video input of its own. See ``Engine``."""
        return getattr(self.engine, "takes_videos", False)

    def start(self, *, on_loop_end: Callable[[str], object], while_loading: Callable[[], None], every_s: float) -> None:
        """Load the engine and call ``while_loading`` every ``every_s`` seconds until it has loaded.

        ``on_loop_end`` receives the reason if the engine ends its loop later. Raises the errors of ``Engine.start``.
        """
        self._thread = threading.Thread(target=self._run_loop, args=(on_loop_end,), name="engine", daemon=True)
        self._thread.start()
        began_s = time.monotonic()
        loading = self.submit(self.engine.start())
        while not loading.done():
            while_loading()
            wait([loading], timeout=every_s)
        loading.result()
        self.load_s = time.monotonic() - began_s
        self._watchdog.start()

    def stop(self) -> None:
        """Stop the engine and its loop. If the engine hangs, raises ``TimeoutError`` and does not stop the loop."""
        try:
            self.submit(self.engine.stop()).result(_STOP_S)
        except TimeoutError:
            raise TimeoutError(f"the engine did not stop within {_STOP_S:g} s") from None
        self._watchdog.stop()
        self._media.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Run a coroutine on the engine's loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def generate(self, request: Request) -> Generation:
        """Send a request to the engine. Raises the errors of ``Engine.generate``."""
        began_s = time.monotonic()
        with self._stalls.track_request():
            generation = await self.engine.generate(request)
        taken_s = time.monotonic() - began_s
        self.latency_s = taken_s if self.latency_s is None else self.latency_s + _LATEST_WEIGHT * (taken_s - self.latency_s)
        return generation

    def hold_images(self, media: Sequence[Media], run: RunContext) -> AbstractAsyncContextManager[Decoded]:
        """Return a context manager that holds the images of media in memory, see ``MediaLoader.hold``."""
        return self._media.hold(media, run.access, run.spec.model.media)

    def describe_stall(self) -> str | None:
        """Return the reason to end the process if the engine does not answer its pending requests, else ``None``."""
        if self._stalls.stalled_s <= self._stall_s:
            return None
        return f"the engine has not answered a request for {self._stall_s:g} s"

    def _run_loop(self, on_loop_end: Callable[[str], object]) -> None:
        try:
            self._loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            # Only these two exceptions end a loop. Without a loop, chunks would never end.
            log.exception("engine.loop_ended")
            on_loop_end("the engine ended its loop")
