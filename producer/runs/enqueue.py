"""Enqueue a run: plan it once, open it in the ledger, ring for every chunk that is not done."""

from collections.abc import Iterable
from dataclasses import replace

from celery import Celery

from common.broker.app import ring
from common.errors import IntegrityError
from common.ledger.ledger import Ledger
from common.ledger.worker_registry import list_workers
from common.records import Plan, Record, Sample
from common.spec.models import RunSpec
from common.storage.keys import run_key
from common.storage.plan_index import read_chunk
from common.storage.run_record import PlannedRun, load_planned_run
from common.storage.store import Store
from producer.planning.plan import plan_run
from producer.runs.rebuild import open_run


class Enqueued(Record):
    """What enqueueing did.

    ``planned`` and ``opened`` say whether store and ledger saw the run for the first time; ``state`` is the run's,
    ``not_ok`` counts samples that ended ``failed`` or ``invalid``, ``rung`` the chunks rung for, and ``workers`` those that
    serve the model now.
    """

    run_id: str
    model: str
    plan: Plan
    planned: bool
    opened: bool
    state: str
    not_ok: int
    rung: int
    workers: int


def enqueue_run(spec: RunSpec, samples: Iterable[Sample], store: Store, ledger: Ledger, app: Celery) -> Enqueued:
    """Bring a run to where every chunk is done or rung for; safe to call again at any time, and to die in at any point.

    ``samples`` are read only when the store has no plan yet.  A ledger that does not know the run learns from the store's
    parts what is done.
    """
    found = find_planned_run(store, spec.run_id)
    if found is None:
        plan_run(spec, samples, store)
    # `abort_if` is not part of the digest, so the spec of this call decides, not the one in the store.
    run = replace(found or load_planned_run(store, spec.run_id), spec=spec)
    opened = open_run(run, store, ledger, resets_abort=True)
    view = ledger.view_run(spec.run_id)
    state = view.state if view else "unknown"
    return Enqueued(
        run_id=spec.run_id,
        model=spec.model.name,
        plan=run.plan,
        planned=found is None,
        opened=opened,
        state=state,
        not_ok=sum(count for (_, reached), count in view.counts.items() if reached != "ok") if view else 0,
        rung=ring_pending(run, ledger, app) if state == "running" else 0,
        workers=sum(worker.state != "stopped" for worker in list_workers(ledger.client, spec.model.name)),
    )


def find_planned_run(store: Store, run_id: str) -> PlannedRun | None:
    """Return the planned run, or None if there is no plan, or an object of it is gone, cut short or damaged at first sight.

    Writing it again gives the same bytes, so enqueueing the same spec is how a plan is repaired.
    """
    if not store.exists(run_key(run_id)):
        return None
    try:
        run = load_planned_run(store, run_id)
        read_chunk(store, run.index[run.index.waves[0].end - 1])
    except IntegrityError:
        return None
    return run


def ring_pending(run: PlannedRun, ledger: Ledger, app: Celery) -> int:
    """Ring for every chunk that is neither done nor leased; return how many."""
    return ring(app, run.spec.model.name, run.run_id, ledger.iterate_pending(run.run_id), run.index)
