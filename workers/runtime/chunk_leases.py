"""The chunks that this worker holds: it leases, renews and gives back chunks. It does not take chunks while it drains."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from redis.exceptions import RedisError

from common.deaths import DeathCause
from common.ledger.ledger import Ledger
from common.records import Lease, Standing
from common.settings import Settings
from workers.recovery.lease_keeper import HeldLease, LeaseKeeper
from workers.recovery.takeover import Takeovers
from workers.runtime.engine_lock import EngineLock


class ChunkLeases:
    """Leases chunks for one worker. Safe to share between threads. ``drain`` is safe in a signal handler."""

    def __init__(
        self, worker: str, ledger: Ledger, keeper: LeaseKeeper, takeovers: Takeovers, engine_lock: EngineLock, settings: Settings
    ) -> None:
        self._worker = worker
        self._ledger = ledger
        self._keeper = keeper
        self._takeovers = takeovers
        self._engine_lock = engine_lock
        self._settings = settings
        self._acquiring = threading.Lock()
        self._noting_death = threading.Lock()
        self._in_flight_at_death: frozenset[str] | None = None
        self._death: DeathCause | None = None
        self._grace_ends_at: float | None = None

    @contextmanager
    def hold(self, run_id: str, chunk: int) -> Iterator[HeldLease | None]:
        """Lease a chunk and keep it renewed while the block runs. Yield ``None`` if it is done or held, or its run is closed.

        If an exception leaves the block, the chunk is given back and offered again after ``lease_s``.
        """
        with ExitStack() as keeping:
            with self._acquiring:
                lease = None if self.draining else self._acquire(run_id, chunk)
                held = keeping.enter_context(self._keeper.keep(lease)) if lease else None
            if self.draining and not held:
                self._takeovers.decline(run_id, chunk)
            try:
                yield held
            except BaseException:
                with suppress(RedisError):  # if this fails, the lease expires
                    if held:
                        self.give_back(held.lease, delay_s=self._settings.lease_s)
                raise

    def give_back(self, lease: Lease, *, delay_s: float = 0.0) -> None:
        """Release a chunk and keep its journal. Another worker's janitor takes the chunk over."""
        death = self._death if lease.token in (self._in_flight_at_death or ()) else None
        self._ledger.release(lease, death=death, delay_s=delay_s)

    def give_back_all(self) -> None:
        """Release every chunk, including a chunk whose ``acquire`` is in flight."""
        self.wait_for_acquire()
        for lease in self._keeper.leases:
            self.give_back(lease)

    def drain(self, *, at_once: bool = False) -> None:
        """Stop taking chunks. Running chunks may continue for ``drain_grace_s``, or are given back now if ``at_once``."""
        self._takeovers.close()
        if at_once:
            self._grace_ends_at = time.monotonic()
        elif self._grace_ends_at is None:
            self._grace_ends_at = time.monotonic() + self._settings.drain_grace_s

    @property
    def draining(self) -> bool:
        return self._grace_ends_at is not None

    @property
    def grace_over(self) -> bool:
        """Whether the grace period of a drain has passed. Running chunks must then be given back."""
        return self._grace_ends_at is not None and time.monotonic() >= self._grace_ends_at

    @property
    def takes_struck(self) -> bool:
        """Whether this worker may lease a struck or quarantined chunk.

        It holds at most one such chunk, so that a second engine death identifies the chunk.
        """
        return all(lease.standing == Standing.FRESH for lease in self._keeper.leases)

    def note_death_and_drain(self, cause: DeathCause) -> DeathCause | None:
        """Record the chunks in flight when the engine died of ``cause``, then drain without a grace period.

        Return the cause, or ``None`` if the worker already drained. Such a death does not count, because the signal that drained
        the worker may also have ended its engine. The order matters, because a drain makes chunks release the engine lock.
        """
        with self._noting_death:
            if self._in_flight_at_death is None:
                in_flight = (lease.token for lease in self._keeper.leases if self._engine_lock.is_held_by(lease))
                self._in_flight_at_death = frozenset(in_flight)
                self._death = None if self.draining else cause
                self.drain(at_once=True)
            return self._death

    def _acquire(self, run_id: str, chunk: int) -> Lease | None:
        return self._ledger.acquire(run_id, chunk, self._worker, takes_struck=self.takes_struck)

    def wait_for_acquire(self) -> None:
        """Block until any in-flight ``acquire`` has finished. None can start after a drain."""
        with self._acquiring:
            return
