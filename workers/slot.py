"""What one worker process holds: its engine on an event loop of its own, the ledger, the store and its leases."""

import asyncio
import os
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import structlog
from celery import Celery
from PIL.Image import Image

from common.broker import ring
from common.errors import EngineError
from common.ledger import Ledger
from common.presence import Presence, announce_worker, withdraw_worker
from common.records import Lease, Sample
from common.settings import Settings
from common.spec import ModelProfile
from common.store import Store
from workers.adapters.base import Adapter
from workers.engines.base import Engine
from workers.heartbeat import Heartbeat, Held
from workers.janitor import sweep
from workers.media import load_media
from workers.runs import LoadedRun, load_run

log = structlog.get_logger()

# Exit codes for the launcher: it starts a fresh process after the first, and gives up after the second.
ENGINE_DIED = 70
CANNOT_START = 2

Result = TypeVar("Result")


class Slot:
    """One engine and all that feeds it.  Celery's task threads share it; the engine runs on the loop's thread."""

    def __init__(
        self,
        *,
        name: str,
        device: str,
        profile: ModelProfile,
        engine: Engine,
        adapter: Adapter,
        app: Celery,
        ledger: Ledger,
        store: Store,
        settings: Settings,
    ) -> None:
        self.name = name
        self.engine = engine
        self.adapter = adapter
        self.ledger = ledger
        self.store = store
        self.heartbeat = Heartbeat(ledger, settings, self._do_duties)
        self._device = device
        self._profile = profile
        self._app = app
        self._settings = settings
        self._load_run = lru_cache(maxsize=64)(lambda run_id: load_run(store, run_id, profile))
        self._media_threads = ThreadPoolExecutor(settings.media_threads, thread_name_prefix="media")
        self._loop = asyncio.new_event_loop()
        self._loop_thread = threading.Thread(target=self._turn_loop, name="engine", daemon=True)
        self.ready = False
        self._grace_ends_at: float | None = None

    def start(self) -> None:
        """Load the engine, then begin to renew leases.  Raises what ``Engine.start`` raises."""
        self._loop_thread.start()
        self.submit(self.engine.start()).result()
        self._do_duties()
        self.heartbeat.start()
        self.ready = True

    def stop(self) -> None:
        """Drain, give the accelerator back and vanish from the list of workers."""
        self.drain()
        self.heartbeat.wait_until_idle()
        self.heartbeat.stop()
        self.submit(self.engine.stop()).result()
        self._media_threads.shutdown(cancel_futures=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop_thread.join()
        self._loop.close()
        withdraw_worker(self.ledger.client, self.name)

    def drain(self, *, at_once: bool = False) -> None:
        """Take no more chunks; those that run have ``drain_grace_s`` left, or nothing.  Safe in a signal handler."""
        if at_once:
            self._grace_ends_at = time.monotonic()
        elif self._grace_ends_at is None:
            self._grace_ends_at = time.monotonic() + self._settings.drain_grace_s

    @property
    def draining(self) -> bool:
        return self._grace_ends_at is not None

    @property
    def grace_over(self) -> bool:
        """Whether a drain has lasted so long that chunks which still run are to be given back."""
        return self._grace_ends_at is not None and time.monotonic() >= self._grace_ends_at

    def submit(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Run a coroutine on the engine's loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def load_run(self, run_id: str) -> LoadedRun:
        return self._load_run(run_id)

    async def load_images(self, sample: Sample) -> tuple[Image, ...]:
        """Return a sample's images, decoded in the bounded pool.  Raises ``SampleError``."""
        loading = [self._loop.run_in_executor(self._media_threads, load_media, media) for media in sample.media]
        return tuple(await asyncio.gather(*loading))

    @contextmanager
    def hold(self, lease: Lease) -> Iterator[Held]:
        """Keep a lease renewed.  An engine that dies meanwhile ends this process, every chunk given back."""
        with self.heartbeat.keep(lease) as held:
            try:
                yield held
            except EngineError as error:
                log.error(  # noqa: TRY400  # the message speaks for itself, a traceback would hide it
                    "engine died; this worker restarts", run_id=lease.run_id, chunk=lease.chunk, error=str(error)
                )
                self.die()

    def give_back(self, lease: Lease) -> None:
        """Release a chunk, its journal intact, and ring so that another worker goes on with it."""
        if self.ledger.release(lease):
            ring(self._app, self._profile.name, lease.run_id, [lease.chunk])

    def die(self) -> NoReturn:
        """Give every chunk back and end this process at once; the launcher starts a fresh one."""
        self.drain(at_once=True)  # none of ours may answer the ring
        try:
            for lease in self.heartbeat.leases:
                self.give_back(lease)
        finally:
            os._exit(ENGINE_DIED)

    def _turn_loop(self) -> None:
        try:
            self._loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            # These two alone leave a loop, and without it no chunk would ever end.
            log.exception("the engine ended its loop; this worker restarts")
            self.die()

    def _do_duties(self) -> None:
        presence = Presence(
            worker=self.name,
            model=self._profile.name,
            device=self._device,
            pid=os.getpid(),
            state="draining" if self.draining else "ready",
            holds=tuple((lease.run_id, lease.chunk) for lease in self.heartbeat.leases),
        )
        announce_worker(self.ledger.client, presence, ttl_s=self._settings.lease_s)
        if not self.draining:
            sweep(self._app, self.ledger, self._settings, self._profile.name)
