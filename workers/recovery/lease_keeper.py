"""The heartbeat: one thread per worker that renews its leases, then runs duties such as the janitor's sweep."""

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
    """A lease that this worker holds. ``lost`` is true once another worker has taken the chunk over."""

    lease: Lease
    lost: bool = False


class LeaseKeeper:
    """Renews the held leases and calls ``duties`` every ``renew_s`` until it is stopped.

    While Redis is unreachable, the keeper retries and chunks continue to run. A lease that expires during that time is renewed
    later, unless another worker has taken the chunk over. When the launcher has exited, this process drains.
    """

    def __init__(self, ledger: Ledger, settings: Settings, duties: Callable[[], None], launcher: int | None = None) -> None:
        self._ledger = ledger
        self._settings = settings
        self._duties = duties
        self._held: dict[str, HeldLease] = {}
        self._idle = threading.Condition()
        self._parent = launcher or os.getppid()  # the launcher may have exited before this line
        self._round_at: float | None = None
        self._reliable_from = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Run the first heartbeat in the calling thread, and all later heartbeats in a separate thread."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def expiry_is_reliable(self) -> bool:
        """Return whether an expired lease means a dead worker. Call it once per heartbeat, after Redis has answered.

        Leases of live workers also expire while Redis is unreachable or this process is suspended. For one lease time after that,
        this worker does not take over chunks, so that live workers can renew their leases.
        """
        now = time.monotonic()
        gap_s, self._round_at = now - (self._round_at or now), now
        if gap_s > max(self._settings.lease_s - self._settings.renew_s, 2 * self._settings.renew_s):
            self._reliable_from = now + self._settings.lease_s
        return now >= self._reliable_from

    @property
    def leases(self) -> list[Lease]:
        """The leases that are held now."""
        return [held.lease for held in list(self._held.values())]

    @contextmanager
    def keep(self, lease: Lease) -> Iterator[HeldLease]:
        """Renew a lease while the block runs."""
        held = self._held[lease.token] = HeldLease(lease)
        try:
            yield held
        finally:
            with self._idle:
                del self._held[lease.token]
                self._idle.notify_all()

    def wait_until_idle(self) -> None:
        """Block until all leases are released."""
        with self._idle:
            self._idle.wait_for(lambda: not self._held)

    def _run(self) -> None:
        while not self._stopping.wait(self._settings.renew_s):
            self._beat()
            if os.getppid() != self._parent:
                log.warning("launcher.gone", hint="this worker drains")
                os.kill(os.getpid(), signal.SIGTERM)
                self._parent = os.getppid()

    def _beat(self) -> None:
        try:
            self._renew()
            self._duties()
        except (RedisError, ServiceUnreachable) as error:
            log.warning("heartbeat.incomplete", error=str(error), hint="Redis is unreachable; the next heartbeat tries again")
        except Exception:
            log.exception("heartbeat.failed", hint="the next heartbeat tries again")

    def _renew(self) -> None:
        by_run = sorted(self.leases, key=lambda lease: lease.run_id)
        for run_id, leases in groupby(by_run, key=lambda lease: lease.run_id):
            for lease in self._ledger.renew(run_id, list(leases)):
                if lost := self._held.get(lease.token):
                    lost.lost = True
