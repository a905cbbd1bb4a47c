"""What one worker process holds: its engine on an event loop of its own, the ledger, the store and its leases."""

import asyncio
import os
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from functools import lru_cache, partial
from typing import Any, NoReturn, Protocol, TypeVar
from weakref import WeakValueDictionary

import structlog
from celery import Celery
from PIL.Image import Image
from redis.exceptions import RedisError

from common.errors import EngineError
from common.exit_codes import ENGINE_DIED
from common.ledger.ledger import SUSPECT, Ledger
from common.ledger.worker_registry import WorkerRecord, WorkerState, announce_worker, withdraw_worker
from common.records import Lease, Sample
from common.settings import Settings
from common.spec.models import ModelProfile
from common.storage.plan_index import ChunkIndex
from common.storage.store import Store
from workers.adapters.base import Adapter
from workers.engines.base import Engine, Generation, Request
from workers.media.loader import MediaLoader
from workers.recovery.janitor import sweep
from workers.recovery.lease_keeper import HeldLease, LeaseKeeper
from workers.recovery.stall_detector import StallDetector
from workers.recovery.takeover import Takeovers
from workers.recovery.watchdog import Watchdog
from workers.runtime.admission import AdmissionGate
from workers.runtime.engine_lock import EngineLock
from workers.runtime.run_context import RunContext, load_run
from workers.runtime.throughput import Throughput

log = structlog.get_logger()

_STOP_S = 10.0  # an engine that takes longer to stop is hung; the launcher waits for little more than this

Result = TypeVar("Result")


class Look(Protocol):
    """Runs a chunk if it is there to be run: ``workers.execution.look.look``."""

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
        self.heartbeat = LeaseKeeper(ledger, settings, self._do_duties, launcher)
        self.intake = AdmissionGate(settings.samples_in_flight)
        self.turns = EngineLock()
        self.pace = Throughput()
        self.trouble: str | None = None
        self._silence = StallDetector()
        self._watchdog = Watchdog(settings.engine_stall_s)
        self._device = device
        self._gpu = gpu
        self._profile = profile
        self._app = app
        self._settings = settings
        self._leasing = threading.Lock()
        self._judging = threading.Lock()
        self._suspects: frozenset[str] | None = None
        self._takeovers = Takeovers(ledger, partial(look, self, at_once=True), settings.chunks_in_flight)
        self._loaded: WeakValueDictionary[str, RunContext] = WeakValueDictionary()
        self._load_run = lru_cache(maxsize=64)(lambda run_id: load_run(store, run_id, profile, settings))
        self._media = MediaLoader(settings.media_threads, settings.media_memory_mb * 2**20)
        self._loop = asyncio.new_event_loop()
        self._loop_thread = threading.Thread(target=self._turn_loop, name="engine", daemon=True)
        self.ready = False
        self._grace_ends_at: float | None = None

    def start(self) -> None:
        """Load the engine, saying so meanwhile, then begin to renew leases.  Raises what ``Engine.start`` raises."""
        self._loop_thread.start()
        loading = self.submit(self.engine.start())
        while not loading.done():
            with suppress(RedisError):  # it may be back by the time it is needed
                self._tell("loading")
            wait([loading], timeout=self._settings.renew_s)
        loading.result()
        self.ready = True  # from now on there may be leases to give back
        self._watchdog.start()
        self.heartbeat.start()

    def stop(self) -> None:
        """Drain, give the accelerator back and vanish from the list of workers.  An engine that hangs ends the process."""
        self.drain()
        self._takeovers.stop()
        self._end_leasing()
        self.heartbeat.wait_until_idle()
        self.heartbeat.stop()
        try:
            self.submit(self.engine.stop()).result(_STOP_S)
        except TimeoutError:
            self.die(f"the engine did not stop within {_STOP_S:g} s")
        self._watchdog.stop()
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

    def load_run(self, run_id: str) -> RunContext:
        """Return a run as read from the store, once.  Raises what ``workers.runtime.run_context.load_run`` raises."""
        return self._loaded.setdefault(run_id, self._load_run(run_id))

    def find_index(self, run_id: str) -> ChunkIndex | None:
        """Return a run's chunks if this worker has read them; the janitor, who asks, must never wait for the store."""
        run = self._loaded.get(run_id)
        return run.index if run else None

    async def generate(self, request: Request) -> Generation:
        """Ask the engine.  Raises what ``Engine.generate`` raises."""
        with self._silence.broken_by_answer():
            return await self.engine.generate(request)

    def hold_images(self, sample: Sample, run: RunContext) -> AbstractAsyncContextManager[tuple[Image, ...]]:
        """Return a block in which a sample's images take their share of memory, see ``MediaLoader.hold``."""
        return self._media.hold(sample.media, run.access, run.spec.model.media)

    @contextmanager
    def hold(self, run_id: str, chunk: int) -> Iterator[HeldLease | None]:
        """Lease a chunk and keep it renewed for as long as the block runs; ``None`` if it is not to be had.

        An engine that dies meanwhile ends this process, every chunk given back.  Whatever else leaves the block, the chunk is
        given back for a later time.
        """
        with ExitStack() as keeping:
            with self._leasing:
                lease = None if self.draining else self.ledger.acquire(run_id, chunk, self.name)
                held = keeping.enter_context(self.heartbeat.keep(lease)) if lease else None
            if self.draining and not held:
                self._takeovers.decline(run_id, chunk)
            try:
                yield held
            except EngineError as error:
                self.die(str(error))
            except BaseException:
                with suppress(RedisError):  # then the lease runs out
                    if held:
                        self.give_back(held.lease, delay_s=self._settings.lease_s)
                raise

    def give_back(self, lease: Lease, *, delay_s: float = 0.0) -> None:
        """Release a chunk, its journal intact, for another worker's janitor to take over."""
        self.ledger.release(lease, blame=SUSPECT if lease.token in (self._suspects or ()) else 0, delay_s=delay_s)

    def die(self, why: str) -> NoReturn:
        """Give every chunk back and end this process at once; the launcher starts a fresh one."""
        log.error("engine died; this worker restarts", error=why)
        self._end_grace()
        self.trouble = why
        try:
            self._end_leasing()
            for lease in self.heartbeat.leases:
                self.give_back(lease)
            self._takeovers.decline_all()
            self._tell("stopped")  # the launcher passes on why, should it give this worker up
        finally:
            os._exit(ENGINE_DIED)

    def _end_grace(self) -> None:
        """Drain at once, having noted who may be to blame: by draining, chunks that wait for their turn or have it lose it.

        In a drain nobody is: whoever told this worker to end may have told its engine, too.
        """
        with self._judging:
            if self._suspects is None:
                asking = (lease.token for lease in self.heartbeat.leases if self.turns.is_asking(lease))
                self._suspects = frozenset(() if self.draining else asking)
                self._grace_ends_at = time.monotonic()

    def _end_leasing(self) -> None:
        """Return once a drain has come through: a lease that was asked for before it is held by now, and none follows."""
        with self._leasing:
            return

    @property
    def room_for_takeovers(self) -> int:
        """How many chunks of others this worker would take over now, beyond those that the queue gives it."""
        return 0 if self.draining else self._takeovers.room

    def take_over(self, run_id: str, chunk: int) -> None:
        """Run a chunk that was another worker's."""
        self._takeovers.begin(run_id, chunk)

    def _turn_loop(self) -> None:
        try:
            self._loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            # These two alone leave a loop, and without it no chunk would ever end.
            log.exception("the engine ended its loop")
            self.die("the engine ended its loop")

    def _tell(self, state: WorkerState) -> None:
        """Say that this worker is there, what it holds, how fast it is, and what its trouble is."""
        held, rate = ((), None) if state == "stopped" else (self.heartbeat.leases, self.pace.measure())
        presence = WorkerRecord(
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
        try:
            self._tell("draining" if self.draining else "ready")
            trusts = self.heartbeat.trusts_leases()
            if not self.draining:
                sweep(self._app, self, self._settings, self._profile.name, trusts_leases=trusts)
        finally:  # an engine that hangs is not to be kept by a Redis that is out of order as well
            if self._silence.length_s > self._settings.engine_stall_s:
                self.die(f"the engine has answered nothing for {self._settings.engine_stall_s:g} s")
