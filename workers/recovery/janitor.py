"""The janitor: every worker now and then looks for chunks that a dead worker held or a lost message named."""

from typing import Protocol

import structlog
from celery import Celery
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from common.broker.app import count_waiting, ring
from common.ledger.ledger import Ledger
from common.settings import Settings
from common.storage.plan_index import ChunkIndex

log = structlog.get_logger()

_RING_AT_ONCE = 256


class Successor(Protocol):
    """The worker that sweeps, as the janitor needs it."""

    @property
    def ledger(self) -> Ledger: ...

    @property
    def room_for_takeovers(self) -> int: ...

    def take_over(self, run_id: str, chunk: int) -> None: ...

    def find_index(self, run_id: str) -> ChunkIndex | None: ...


def sweep(app: Celery, successor: Successor, settings: Settings, model: str, *, trusts_leases: bool = True) -> int:
    """Take over chunks that nobody holds any more and, once the queue is empty, ring for pending ones; return how many.

    What a dead worker held does not go through the queue, where thousands of chunks may wait before it.  Unless
    ``trusts_leases``, only what was given back is taken: leases may have run out because nobody could renew them.  One worker
    of a model sweeps at a time; one that had no room for all leaves the turn to the next at once.
    """
    ledger, turn = successor.ledger, f"fleet:janitor:{model}"
    if not ledger.client.set(turn, "1", nx=True, px=int(settings.janitor_s * 1000)):
        return 0
    found = 0
    queue_is_empty = count_waiting(ledger.client, model) == 0
    for run_id in ledger.list_runs(model):
        try:
            if expired := _take_over(successor, run_id, of_silent=trusts_leases):
                found += expired
            elif trusts_leases and queue_is_empty and _is_running(ledger, run_id):
                pending = ledger.find_pending(run_id, limit=_RING_AT_ONCE)
                found += ring(app, model, run_id, pending, successor.find_index(run_id))
        except (OutOfMemoryError, ReadOnlyError):
            raise
        except ResponseError:  # the other runs are to go on
            log.exception("Redis cannot use its record of this run; producer resume --rebuild makes it anew", run_id=run_id)
    if not successor.room_for_takeovers:
        ledger.client.delete(turn)
    return found


def _take_over(successor: Successor, run_id: str, *, of_silent: bool) -> int:
    room = successor.room_for_takeovers
    expired = successor.ledger.expire_leases(run_id, limit=room, of_silent=of_silent) if room else []
    for chunk in expired:
        log.info("nobody holds this chunk any more; taking it over", run_id=run_id, chunk=chunk)
        successor.take_over(run_id, chunk)
    return len(expired)


def _is_running(ledger: Ledger, run_id: str) -> bool:
    """Return whether workers may have the run's chunks; ringing for a paused run would never end."""
    view = ledger.view_run(run_id)
    return view is not None and view.state == "running"
