"""What one worker process holds: its engine on an event loop of its own, the ledger, the store and its leases."""

import asyncio
import os
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from functools import lru_cache
from typing import Any, Literal, NoReturn, Protocol, TypeVar
from weakref import WeakValueDictionary

import structlog
from celery import Celery
from PIL.Image import Image
from redis.exceptions import RedisError

from common.chunks import ChunkIndex
from common.errors import EngineError
from common.ledger import SUSPECT, Ledger
from common.presence import Presence, announce_worker, withdraw_worker
from common.records import Lease, Sample
from common.settings import Settings
from common.spec import ModelProfile
from common.store import Store
from workers.adapters.base import Adapter
from workers.engines.base import Engine, Generation, Request
from workers.heartbeat import Heartbeat, Held
from workers.intake import Intake
from workers.janitor import sweep
from workers.media_loader import MediaLoader
from workers.pace import Pace
from workers.runs import LoadedRun, load_run
from workers.silence import Silence
from workers.turns import Turns
from workers.watchdog import Watchdog

log = structlog.get_logger()

# Exit codes for the launcher: it starts a fresh process after the first, and gives up after the second.
ENGINE_DIED = 70
CANNOT_START = 2

# Chunks taken over at once: they do not wait for room, and other workers are to have some of a dead one's, too.
MOST_TAKEOVERS = 4

Result = TypeVar("Result")


class Look(Protocol):
    """Runs a chunk if it is there to be run: ``workers.look.look``."""

    def __call__(self, slot: "Slot", run_id: str, chunk: int, *, at_once: bool = False) -> str: ...


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
        look: Look,
        gpu: str | None = None,
        launcher: int | None = None,
    ) -> None:
        self.name = name
        self.engine = engine
        self.adapter = adapter
        self.ledger = ledger
        self.store = store
        self.heartbeat = Heartbeat(ledger, settings, self._do_duties, launcher)
        self.intake = Intake(settings.samples_in_flight)
        self.turns = Turns()
        self.pace = Pace()
        self.trouble: str | None = None
        self._silence = Silence()
        self._watchdog = Watchdog(settings.engine_stall_s)
        self._device = device
        self._gpu = gpu
        self._profile = profile
        self._app = app
        self._settings = settings
        self._look = look
        self._leasing = threading.Lock()
        self._takeovers = ThreadPoolExecutor(MOST_TAKEOVERS, thread_name_prefix="takeover")
        self._taken_over: list[Future[str]] = []
        self._loaded: WeakValueDictionary[str, LoadedRun] = WeakValueDictionary()
        self._load_run = lru_cache(maxsize=64)(lambda run_id: load_run(store, run_id, profile, settings))
        self._media = MediaLoader(settings.media_threads, settings.media_memory_mb * 2**20)
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
        self._watchdog.start()
        self.ready = True

    def stop(self) -> None:
        """Drain, give the accelerator back and vanish from the list of workers."""
        self.drain()
        self._takeovers.shutdown()
        self._end_leasing()
        self.heartbeat.wait_until_idle()
        self.heartbeat.stop()
        self._watchdog.stop()
        self.submit(self.engine.stop()).result()
        self._media.stop()
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
        """Return a run as read from the store, once.  Raises what ``workers.runs.load_run`` raises."""
        run = self._loaded[run_id] = self._load_run(run_id)
        return run

    def find_index(self, run_id: str) -> ChunkIndex | None:
        """Return a run's chunks if this worker has read them; the janitor, who asks, must never wait for the store."""
        run = self._loaded.get(run_id)
        return run.index if run else None

    async def generate(self, request: Request) -> Generation:
        """Ask the engine.  Raises what ``Engine.generate`` raises."""
        with self._silence.broken_by_answer():
            return await self.engine.generate(request)

    def hold_images(self, sample: Sample, run: LoadedRun) -> AbstractAsyncContextManager[tuple[Image, ...]]:
        """Return a block in which a sample's images take their share of memory, see ``MediaLoader.hold``."""
        return self._media.hold(sample.media, run.access, run.spec.model.media)

    @contextmanager
    def hold(self, run_id: str, chunk: int) -> Iterator[Held | None]:
        """Lease a chunk and keep it renewed for as long as the block runs; ``None`` if it is not to be had.

        An engine that dies meanwhile ends this process, every chunk given back.  Whatever else leaves the block, the chunk is
        given back for a later time.
        """
        with ExitStack() as keeping:
            with self._leasing:
                lease = None if self.draining else self.ledger.acquire(run_id, chunk, self.name)
                held = keeping.enter_context(self.heartbeat.keep(lease)) if lease else None
            try:
                yield held
            except EngineError as error:
                self.die(str(error))
            except BaseException:
                with suppress(RedisError):  # then the lease runs out
                    if held:
                        self.ledger.release(held.lease, delay_s=self._settings.lease_s)
                raise

    def give_back(self, lease: Lease) -> None:
        """Release a chunk, its journal intact, for another worker's janitor to take over."""
        self.ledger.release(lease)

    def die(self, why: str) -> NoReturn:
        """Give every chunk back and end this process at once; the launcher starts a fresh one."""
        log.error("engine died; this worker restarts", error=why)
        self.drain(at_once=True)
        self.trouble = why
        try:
            self._end_leasing()
            for lease in self.heartbeat.leases:
                self.ledger.release(lease, blame=SUSPECT if self.turns.is_asking(lease) else 0)
            self._tell("stopped")  # the launcher passes on why, should it give this worker up
        finally:
            os._exit(ENGINE_DIED)

    def _end_leasing(self) -> None:
        """Return once a drain has come through: a lease that was asked for before it is held by now, and none follows."""
        with self._leasing:
            return

    @property
    def room_for_takeovers(self) -> int:
        """How many chunks of others this worker would take over now, beyond those that the queue gives it."""
        running = sum(not taken.done() for taken in self._taken_over)
        return 0 if self.draining else min(MOST_TAKEOVERS, self._settings.chunks_in_flight) - running

    def take_over(self, run_id: str, chunk: int) -> None:
        """Run a chunk on a thread of its own, so that it waits neither in the queue nor for a thread of Celery's."""
        self._taken_over = [taken for taken in self._taken_over if not taken.done()]
        self._taken_over.append(self._takeovers.submit(self._look, self, run_id, chunk, at_once=True))

    def _turn_loop(self) -> None:
        try:
            self._loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            # These two alone leave a loop, and without it no chunk would ever end.
            log.exception("the engine ended its loop")
            self.die("the engine ended its loop")

    def _tell(self, state: Literal["ready", "draining", "stopped"]) -> None:
        """Say that this worker is there, what it holds, how fast it is, and what its trouble is."""
        held, rate = ((), None) if state == "stopped" else (self.heartbeat.leases, self.pace.measure())
        presence = Presence(
            worker=self.name,
            model=self._profile.name,
            device=self._device,
            gpu=self._gpu,
            pid=os.getpid(),
            state=state,
            holds=tuple((lease.run_id, lease.chunk) for lease in held),
            samples_per_s=rate.samples_per_s if rate else None,
            tokens_per_s=rate.tokens_per_s if rate else None,
            trouble=self.trouble,
        )
        announce_worker(self.ledger.client, presence, ttl_s=self._settings.lease_s)

    def _do_duties(self) -> None:
        self._tell("draining" if self.draining else "ready")
        if self.heartbeat.trusts_leases() and not self.draining:
            sweep(self._app, self, self._settings, self._profile.name)
        if self._silence.length_s > self._settings.engine_stall_s:
            self.die(f"the engine has answered nothing for {self._settings.engine_stall_s:g} s")
