"""The janitor: every worker now and then rings again for chunks that a dead worker held or a lost message named."""

import structlog
from celery import Celery

from common.broker import count_waiting, ring
from common.ledger import Ledger
from common.settings import Settings

log = structlog.get_logger()

_RING_AT_ONCE = 256


def sweep(app: Celery, ledger: Ledger, settings: Settings, model: str) -> int:
    """Ring for expired chunks and, once the queue is empty, for pending ones; return how many.

    One worker of a model sweeps at a time, so that many workers do not ring for the same chunk.
    """
    turn = f"fleet:janitor:{model}"
    if not ledger.client.set(turn, "1", nx=True, px=int(settings.janitor_s * 1000)):
        return 0
    rung = 0
    queue_is_empty = count_waiting(ledger.client, model) == 0
    for run_id in ledger.list_runs(model):
        if expired := ledger.expire_leases(run_id, limit=_RING_AT_ONCE):
            log.info("leases ran out; ringing again", run_id=run_id, chunks=expired)
            rung += ring(app, model, run_id, expired)
        elif queue_is_empty and _is_running(ledger, run_id):
            rung += ring(app, model, run_id, ledger.find_pending(run_id, limit=_RING_AT_ONCE))
    return rung


def _is_running(ledger: Ledger, run_id: str) -> bool:
    """Return whether workers may have the run's chunks; ringing for a paused run would never end."""
    view = ledger.view_run(run_id)
    return view is not None and view.state == "running"
