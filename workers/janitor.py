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
    for run_id in ledger.list_runs(model):
        if expired := ledger.expire_leases(run_id, limit=_RING_AT_ONCE):
            log.info("leases ran out; ringing again", run_id=run_id, chunks=expired)
            rung += ring(app, model, run_id, expired)
        elif count_waiting(ledger.client, model) == 0 and (pending := ledger.find_pending(run_id, limit=_RING_AT_ONCE)):
            rung += ring(app, model, run_id, pending)
    return rung
