"""One worker process: the parts that its task threads share, and how they start, report and end together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import structlog
from redis.exceptions import RedisError

from common.broker.app import count_waiting
from common.deaths import DeathCause
from common.errors import EngineError
from common.exit_codes import ENGINE_DIED, ENGINE_KILLED
from common.ledger.ledger import Ledger
from common.ledger.worker_registry import WorkerRecord, WorkerState, announce_worker, withdraw_worker
from common.settings import Settings
from common.storage.store import Store
from workers.recovery.consumption import Consumption
from workers.recovery.janitor import Janitor
from workers.recovery.lease_keeper import LeaseKeeper
from workers.recovery.takeover import Takeovers
from workers.runtime.admission import AdmissionGate
from workers.runtime.chunk_leases import ChunkLeases
from workers.runtime.engine_host import EngineHost
from workers.runtime.engine_lock import EngineLock
from workers.runtime.run_context import RunCache
from workers.runtime.throughput import Throughput

log = structlog.get_logger()


class Worker:
    """The objects that the tasks of one worker process share: an engine, the ledger, the store and the held chunks."""

    def __init__(
        self,
        record: WorkerRecord,
        host: EngineHost,
        runs: RunCache,
        takeovers: Takeovers,
        janitor: Janitor,
        *,
        ledger: Ledger,
        store: Store,
        settings: Settings,
        launcher: int | None = None,
    ) -> None:
        self.name = record.worker
        self.host = host
        self.runs = runs
        self.ledger = ledger
        self.store = store
        self.engine_lock = EngineLock()
        self.admission = AdmissionGate(settings.samples_in_flight, is_closed=lambda: self.engine_lock.is_reserved)
        self.throughput = Throughput()
        self.keeper = LeaseKeeper(ledger, settings, self.report_and_sweep, launcher)
        self.takeovers = takeovers
        self.leases = ChunkLeases(self.name, ledger, self.keeper, takeovers, self.engine_lock, settings)
        self.trouble: str | None = None
        self.ready = False
        self._record = record
        self._janitor = janitor
        self._consumption = Consumption(lambda: count_waiting(ledger.client, record.model), settings)
        self._settings = settings

    def start(self) -> None:
        """Load the engine, report ``loading`` during the load, then renew leases.

        Raises the errors of ``Engine.start`` and ``RunCache.check_profile``.
        """
        self.host.start(on_loop_end=self.die, while_loading=self._announce_loading, every_s=self._settings.renew_s)
        self.runs.check_profile()
        self.ready = True  # from now on the worker may hold leases
        self.keeper.start()

    def stop(self) -> None:
        """Drain, stop the engine and remove this worker from the registry. End the process if the engine hangs."""
        self.leases.drain()
        self.takeovers.stop()
        self.leases.wait_for_acquire()
        self.keeper.wait_until_idle()
        self.keeper.stop()
        try:
            self.host.stop()
        except TimeoutError as error:
            self.die(str(error))
        with suppress(RedisError):  # the record expires
            withdraw_worker(self.ledger.client, self.name)

    @contextmanager
    def exit_on_engine_error(self) -> Iterator[None]:
        """End this process if the engine dies inside the block, while the block's lease is still held and can be given back."""
        try:
            yield
        except EngineError as error:
            self.die(str(error), error.cause)

    def die(self, reason: str, cause: DeathCause = DeathCause.CRASH) -> NoReturn:
        """Give every chunk back and end this process immediately. The launcher starts a new process."""
        counted = self.leases.note_death_and_drain(cause)
        log.error("engine.died", error=reason, cause=cause, worker=self.name)
        self.trouble = reason
        try:
            self.leases.give_back_all()
            self.takeovers.decline_all()
            self._announce("stopped")  # if the launcher gives this worker up, it reports the reason
        finally:
            os._exit(ENGINE_DIED if counted and counted.is_attributed else ENGINE_KILLED)

    def report_and_sweep(self) -> None:
        """Run the duties of every heartbeat: announce this worker, run the janitor's sweep, check for a stalled engine."""
        try:
            if self.leases.draining:
                self._announce("draining")
            else:
                self._announce("ready", self._consumption.describe_trouble())
            with_expired = self.keeper.expiry_is_reliable()
            if not self.leases.draining:
                self._janitor.sweep(with_expired=with_expired, takes_struck=self.leases.takes_struck)
        finally:  # a process whose engine hangs must end even if Redis fails
            if stall := self.host.describe_stall():
                self.die(stall, DeathCause.STALL)

    def _announce_loading(self) -> None:
        with suppress(RedisError):  # loading does not need Redis
            self._announce("loading")

    def _announce(self, state: WorkerState, trouble: str | None = None) -> None:
        """Write this worker's record: the chunks that it holds, its rate, and its trouble if it has one."""
        held, rate = ((), None) if state == "stopped" else (self.keeper.leases, self.throughput.measure())
        record = self._record.model_copy(
            update={
                "state": state,
                "holds": tuple((lease.run_id, lease.chunk) for lease in held),
                "samples_per_s": rate.samples_per_s if rate else None,
                "tokens_per_s": rate.tokens_per_s if rate else None,
                "trouble": self.trouble or trouble,
            }
        )
        announce_worker(self.ledger.client, record, ttl_s=self._settings.lease_s)
