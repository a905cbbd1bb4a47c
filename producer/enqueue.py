"""Enqueue a run: plan it once, open it in the ledger, ring for every chunk that is not done."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from celery import Celery

from common.broker import ring
from common.chunks import read_index, read_part, read_run
from common.layout import parse_part_key, parts_prefix, run_key
from common.ledger import Ledger
from common.presence import list_workers
from common.records import Plan, Record, Sample
from common.spec import RunSpec
from common.store import Store
from producer.plan import plan_run

_READ_AHEAD = 8  # parts; a store far away answers each in tens of milliseconds


class Enqueued(Record):
    """What enqueueing did.

    ``planned`` and ``opened`` say whether store and ledger saw the run for the first time; ``state`` is the run's,
    ``rung`` counts the chunks rung for, and ``workers`` those that serve the model now.
    """

    run_id: str
    model: str
    plan: Plan
    planned: bool
    opened: bool
    state: str
    rung: int
    workers: int


def enqueue_run(spec: RunSpec, samples: Iterable[Sample], store: Store, ledger: Ledger, app: Celery) -> Enqueued:
    """Bring a run to where every chunk is done or rung for; safe to call again at any time, and to die in at any point.

    ``samples`` are read only when the store has no plan yet.  A ledger that does not know the run learns from the store's
    parts what is done.
    """
    planned = not store.exists(run_key(spec.run_id))
    plan = plan_run(spec, samples, store) if planned else read_run(store, spec.run_id)[1]
    opened = open_run(spec.run_id, store, ledger)
    view = ledger.view_run(spec.run_id)
    state = view.state if view else "unknown"
    return Enqueued(
        run_id=spec.run_id,
        model=spec.model.name,
        plan=plan,
        planned=planned,
        opened=opened,
        state=state,
        rung=ring_pending(spec.model.name, spec.run_id, ledger, app) if state == "running" else 0,
        workers=len(list_workers(ledger.client, spec.model.name)),
    )


def open_run(run_id: str, store: Store, ledger: Ledger) -> bool:
    """Open a planned run in the ledger; one that the ledger did not know gets what its parts say.

    Returns whether it was unknown.  Dying between opening and the last part is no loss: a chunk whose part exists and
    that is run again ends in the same part.
    """
    spec, plan = read_run(store, run_id)
    opened = ledger.open_run(plan, spec.model.name)
    if opened:
        commit_parts(run_id, plan, store, ledger)
    return opened


def commit_parts(run_id: str, plan: Plan, store: Store, ledger: Ledger) -> int:
    """Commit every part that lies in the store; return how many.  Any number of times gives the same counts."""
    index = read_index(store, run_id)
    datasets = {counts.name: number for number, counts in enumerate(plan.datasets)}
    numbers = iter([parse_part_key(key)[1] for key in store.list_keys(parts_prefix(run_id))])
    committed = 0
    with ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="rebuild") as pool:
        while ahead := [index[number] for number in islice(numbers, _READ_AHEAD)]:
            for chunk, part in zip(ahead, pool.map(lambda chunk: read_part(store, chunk), ahead), strict=True):
                if part is not None:
                    ledger.commit(chunk, part, datasets, is_progress=False)
                    committed += 1
    return committed


def resume_run(run_id: str, store: Store, ledger: Ledger, app: Celery, *, rebuild: bool = False) -> int:
    """Let a run go on that was paused, or that Redis has lost; return how many chunks were rung for.

    With ``rebuild`` the ledger first forgets the run and learns it again from plan and parts.  Raises ``ConfigError``,
    and forgets nothing, when no such run was planned.
    """
    spec, _ = read_run(store, run_id)
    if rebuild:
        ledger.forget_run(run_id)
    open_run(run_id, store, ledger)
    ledger.continue_run(run_id)
    return ring_pending(spec.model.name, run_id, ledger, app)


def ring_pending(model: str, run_id: str, ledger: Ledger, app: Celery) -> int:
    """Ring for every chunk that is neither done nor leased; return how many."""
    return ring(app, model, run_id, ledger.iterate_pending(run_id))
