"""The janitor: each worker periodically looks for chunks whose holder died and for chunks whose message was lost."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from celery import Celery
from redis.exceptions import ResponseError

from common.broker.app import count_waiting, ring
from common.ledger.connection import is_temporary
from common.ledger.ledger import Ledger
from common.records import RunState
from common.storage.plan_index import ChunkIndex
from workers.recovery.takeover import Takeovers

log = structlog.get_logger()

_RING_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Janitor:
    """Sweeps the runs of one model. ``find_index`` returns a run's chunks if this worker has read them, and never blocks."""

    app: Celery
    ledger: Ledger
    takeovers: Takeovers
    find_index: Callable[[str], ChunkIndex | None]
    model: str
    interval_s: float

    def sweep(self, *, with_expired: bool = True, takes_struck: bool = True) -> int:
        """Take over chunks with an expired lease. If the queue is empty, send messages for pending chunks. Return their number.

        A dead worker's chunks do not go through the queue, where they could wait behind thousands of other chunks.
        If ``with_expired`` is false, live workers may hold expired leases because they could not renew them. Then take over only
        chunks that were given back. If ``takes_struck`` is false, leave struck and quarantined chunks to other workers. One
        worker of a model sweeps per ``interval_s``. A worker that may have left chunks to others releases the turn immediately.
        """
        turn = f"fleet:janitor:{self.model}"
        if not self.ledger.client.set(turn, "1", nx=True, px=int(self.interval_s * 1000)):
            return 0
        taken = rung = 0
        queue_is_empty = count_waiting(self.ledger.client, self.model) == 0
        for run_id in self.ledger.list_runs(self.model):
            try:
                if expired := self._take_over(run_id, with_expired=with_expired, takes_struck=takes_struck and not taken):
                    taken += expired
                elif with_expired and queue_is_empty and self._is_running(run_id):
                    pending = self.ledger.find_pending(run_id, limit=_RING_AT_ONCE)
                    rung += ring(self.app, self.model, run_id, pending, self.find_index(run_id))
            except ResponseError as error:
                if is_temporary(error):
                    raise
                # Continue with the other runs.
                log.exception("run.record_unusable", run_id=run_id, hint=f"rebuild it with: producer resume {run_id} --rebuild")
        if taken or not (self.takeovers.room and takes_struck):
            self.ledger.client.delete(turn)
        return taken + rung

    def _take_over(self, run_id: str, *, with_expired: bool, takes_struck: bool) -> int:
        if not (room := self.takeovers.room):
            return 0
        expired = self.ledger.expire_leases(run_id, limit=room, with_expired=with_expired, takes_struck=takes_struck)
        for chunk in expired:
            self.takeovers.begin(run_id, chunk)
        return len(expired)

    def _is_running(self, run_id: str) -> bool:
        """Return whether workers may lease the run's chunks. For a paused run, every sweep would send the same messages again."""
        view = self.ledger.view_run(run_id)
        return view is not None and view.state == RunState.RUNNING
