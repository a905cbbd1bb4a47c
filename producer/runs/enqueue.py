"""Enqueue a run: plan it once, open it in the ledger, and publish a message for every chunk that is not done."""

from collections.abc import Iterable
from dataclasses import replace

from celery import Celery

from common.broker.app import ring
from common.errors import IntegrityError
from common.ledger.ledger import Ledger
from common.ledger.worker_registry import list_workers
from common.records import Plan, Record, RunState, Sample
from common.spec.models import RunSpec
from common.storage.keys import run_key
from common.storage.plan_index import read_chunk
from common.storage.run_record import PlannedRun, load_planned_run, read_run
from common.storage.store import Store
from common.storage.twins import check_twins
from producer.planning.plan import plan_run
from producer.runs.rebuild import open_run


class Enqueued(Record):
    """The result of enqueueing a run.

    - ``planned`` is true if this call wrote the plan.
    - ``opened`` is true if this call created the ledger's record of the run.
    - ``state`` is the run's state.
    - ``not_ok`` is the number of samples whose outcome is ``failed`` or ``invalid``.
    - ``rung`` is the number of chunks for which a message was published.
    - ``workers`` is the number of workers that serve the model now.
    - ``earlier_run`` is the id of the run that an earlier version planned for this spec, or ``None``. The ids of earlier versions
      did not include engine options.
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
    earlier_run: str | None = None


def enqueue_run(spec: RunSpec, samples: Iterable[Sample], store: Store, ledger: Ledger, app: Celery) -> Enqueued:
    """Plan and open a run if needed, and publish a message for every chunk that is neither done nor leased.

    Idempotent: a later call completes an earlier call that was killed at any point. ``samples`` are read only if the
    store does not have a usable plan. If this call creates the ledger's record of the run, finished chunks are restored from the
    parts in the store.
    """
    found = find_planned_run(store, spec.run_id)
    if found is None:
        plan_run(spec, samples, store)
    # `abort_if` is not part of the digest, so this call's spec may differ from the stored spec. This call's spec takes precedence.
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
        rung=ring_pending(run, ledger, app) if state == RunState.RUNNING else 0,
        workers=sum(worker.state != "stopped" for worker in list_workers(ledger.client, spec.model.name)),
        earlier_run=find_earlier_run(spec, store),
    )


def find_earlier_run(spec: RunSpec, store: Store) -> str | None:
    """Return the id under which an earlier version of the fleet planned this spec, or None if the store does not have the run.

    A run with other engine options may also have that id. Its answers do not count for this spec.
    """
    earlier = spec.earlier_run_id
    if earlier == spec.run_id or not store.exists(run_key(earlier)):
        return None
    try:
        planned, _ = read_run(store, earlier)
    except IntegrityError:
        return None
    return earlier if planned.model.identity_options == spec.model.identity_options else None


def find_planned_run(store: Store, run_id: str) -> PlannedRun | None:
    """Return the planned run, or None if it has no plan or a quick check finds a missing, truncated or damaged object.

    The check reads the record, the indexes, the last chunk and the last byte of the twins. Planning the same spec again writes the
    same bytes, so enqueueing repairs a damaged plan.
    """
    if not store.exists(run_key(run_id)):
        return None
    try:
        run = load_planned_run(store, run_id)
        read_chunk(store, run.index[run.index.waves[0].end - 1])
        check_twins(store, run.plan)
    except IntegrityError:
        return None
    return run


def ring_pending(run: PlannedRun, ledger: Ledger, app: Celery) -> int:
    """Publish a message for every chunk that is neither done nor leased. Return the number of messages."""
    return ring(app, run.spec.model.name, run.run_id, ledger.iterate_pending(run.run_id), run.index)
