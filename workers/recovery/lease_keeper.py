"""The heartbeat: one thread a worker that renews its leases, tells what it is doing and lets the janitor sweep."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import structlog
from redis.exceptions import RedisError

from common.errors import ServiceUnreachable
from common.ledger.ledger import Ledger
from common.records import Lease
from common.settings import Settings

log = structlog.get_logger()


@dataclass
class HeldLease:
    """A lease in this worker's hands; ``lost`` once another worker has taken the chunk over."""

    lease: Lease
    lost: bool = False


class LeaseKeeper:
    """Renews what is held and calls the given ``duties`` every ``renew_s`` until stopped.

    While Redis is away it keeps trying and the work goes on: a lease that ran out meanwhile is renewed unless somebody
    took the chunk over.  When the launcher is gone, the worker is told to drain.
    """

    def __init__(self, ledger: Ledger, settings: Settings, duties: Callable[[], None], launcher: int | None = None) -> None:
        self._ledger = ledger
        self._settings = settings
        self._duties = duties
        self._held: dict[str, HeldLease] = {}
        self._idle = threading.Condition()
        self._parent = launcher or os.getppid()  # which may have gone before this line was reached
        self._round_at: float | None = None
        self._trusts_from = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beat once, and from then on from a thread."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def trusts_leases(self) -> bool:
        """Return whether leases that have run out tell of dead workers.  Asked once a round, when Redis has answered.

        When Redis was away, or this process was stopped, those of living workers have run out as well.  Then for the
        length of a lease nobody's chunks are taken over, so that whoever lives can renew.
        """
        now = time.monotonic()
        silent_s, self._round_at = now - (self._round_at or now), now
        if silent_s > max(self._settings.lease_s - self._settings.renew_s, 2 * self._settings.renew_s):
            self._trusts_from = now + self._settings.lease_s
        return now >= self._trusts_from

    @property
    def leases(self) -> list[Lease]:
        """What is held now."""
        return [held.lease for held in list(self._held.values())]

    @contextmanager
    def keep(self, lease: Lease) -> Iterator[HeldLease]:
        """Renew a lease for as long as the block runs."""
        held = self._held[lease.token] = HeldLease(lease)
        try:
            yield held
        finally:
            with self._idle:
                del self._held[lease.token]
                self._idle.notify_all()

    def wait_until_idle(self) -> None:
        """Return once nothing is held."""
        with self._idle:
            self._idle.wait_for(lambda: not self._held)

    def _run(self) -> None:
        while not self._stopping.wait(self._settings.renew_s):
            self._beat()
            if os.getppid() != self._parent:
                log.warning("the launcher is gone; draining")
                os.kill(os.getpid(), signal.SIGTERM)
                self._parent = os.getppid()

    def _beat(self) -> None:
        try:
            self._renew()
            self._duties()
        except (RedisError, ServiceUnreachable) as error:
            log.warning("Redis is away; this round of the heartbeat was not finished", error=str(error))
        except Exception:
            log.exception("heartbeat failed; it goes on")

    def _renew(self) -> None:
        by_run = sorted(self.leases, key=lambda lease: lease.run_id)
        for run_id, leases in groupby(by_run, key=lambda lease: lease.run_id):
            for lease in self._ledger.renew(run_id, list(leases)):
                if lost := self._held.get(lease.token):
                    lost.lost = True
