"""Enqueue a run: plan it once, open it in the ledger, ring for every chunk that is not done."""

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from celery import Celery

from common.broker.app import ring
from common.errors import ConfigError, IntegrityError
from common.ledger.ledger import Ledger
from common.ledger.worker_registry import list_workers
from common.records import Plan, Record, RunState, Sample
from common.spec.models import RunSpec
from common.storage.keys import parse_part_key, parts_prefix, run_key
from common.storage.plan_index import ChunkIndex, read_chunk, read_index, read_part, read_run
from common.storage.store import Store
from producer.planning.plan import plan_run
from producer.planning.waves import find_retried, plan_wave
from producer.runs.status import RunStatus, prepare_status

RETRIED = ("failed", "invalid")
_READ_AHEAD = 8  # parts; a store far away answers each in tens of milliseconds


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


class Resumed(Record):
    """What resuming did: chunks rung for, samples that are run again, and the run's state now."""

    run_id: str
    state: str
    rung: int
    retried: int


def enqueue_run(spec: RunSpec, samples: Iterable[Sample], store: Store, ledger: Ledger, app: Celery) -> Enqueued:
    """Bring a run to where every chunk is done or rung for; safe to call again at any time, and to die in at any point.

    ``samples`` are read only when the store has no plan yet.  A ledger that does not know the run learns from the store's
    parts what is done.
    """
    planned = not has_plan(spec.run_id, store)
    plan = plan_run(spec, samples, store) if planned else read_run(store, spec.run_id)[1]
    opened = open_run(spec.run_id, store, ledger)
    ledger.set_abort(spec.run_id, spec.abort_if)
    view = ledger.view_run(spec.run_id)
    state = view.state if view else "unknown"
    return Enqueued(
        run_id=spec.run_id,
        model=spec.model.name,
        plan=plan,
        planned=planned,
        opened=opened,
        state=state,
        not_ok=sum(count for (_, reached), count in view.counts.items() if reached != "ok") if view else 0,
        rung=ring_pending(spec.model.name, spec.run_id, store, ledger, app) if state == RunState.RUNNING else 0,
        workers=sum(worker.state != "stopped" for worker in list_workers(ledger.client, spec.model.name)),
    )


def has_plan(run_id: str, store: Store) -> bool:
    """Return whether the run's plan is there, with no object gone, cut short or damaged at first sight.

    Writing it again gives the same bytes, so enqueueing the same spec is how a plan is repaired.
    """
    if not store.exists(run_key(run_id)):
        return False
    try:
        read_run(store, run_id)
        index = read_index(store, run_id)
        read_chunk(store, index[index.waves[0].end - 1])
    except IntegrityError:
        return False
    return True


def open_run(run_id: str, store: Store, ledger: Ledger) -> bool:
    """Open a planned run in the ledger; one that the ledger did not know gets what its parts say.

    Returns whether it was unknown.  Dying between opening and the last part is no loss: a chunk whose part exists and
    that is run again ends in the same part.
    """
    spec, plan = read_run(store, run_id)
    index = read_index(store, run_id)
    opened = ledger.open_run(plan, spec.model.name, chunks=len(index))
    if opened:
        ledger.set_abort(run_id, spec.abort_if)
        commit_parts(index, plan, store, ledger)
    return opened


def commit_parts(index: ChunkIndex, plan: Plan, store: Store, ledger: Ledger) -> int:
    """Commit every part that lies in the store; return how many.  Any number of times gives the same counts.

    Parts of a wave that was planned after ``index`` was read are left to the workers that have just written them.
    """
    datasets = {counts.name: number for number, counts in enumerate(plan.datasets)}
    listed = [parse_part_key(key)[1] for key in store.list_keys(parts_prefix(index.run_id))]
    numbers = iter([number for number in listed if number < len(index)])
    committed = 0
    with ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="rebuild") as pool:
        while ahead := [index[number] for number in islice(numbers, _READ_AHEAD)]:
            for chunk, part in zip(ahead, pool.map(lambda chunk: read_part(store, chunk), ahead), strict=True):
                if part is not None:
                    ledger.commit(chunk, part, datasets, is_progress=False)
                    committed += 1
    return committed


def resume_run(
    run_id: str, store: Store, ledger: Ledger, app: Celery, *, retry: Collection[str] = (), rebuild: bool = False
) -> Resumed:
    """Let a run go on that was paused or cancelled, or that Redis has lost.

    ``retry`` names statuses (``failed``, ``invalid``) whose samples are run again; they keep their outcome until the new
    one is better.  With ``rebuild`` the ledger first forgets the run and learns it again from plan and parts.  Raises
    ``ConfigError``, and forgets nothing, when no such run was planned.
    """
    spec, plan = read_run(store, run_id)
    if rebuild:
        ledger.forget_run(run_id)
    open_run(run_id, store, ledger)
    retried = retry_samples(spec, plan, retry, store, ledger) if retry else 0
    ledger.continue_run(run_id)
    rung = ring_pending(spec.model.name, run_id, store, ledger, app)
    view = ledger.view_run(run_id)
    return Resumed(run_id=run_id, state=view.state if view else "unknown", rung=rung, retried=retried)


def retry_samples(spec: RunSpec, plan: Plan, statuses: Collection[str], store: Store, ledger: Ledger) -> int:
    """Plan a wave of the samples in one of ``statuses`` and tell the ledger; return how many.

    A producer that was faster has planned a wave of its own: what it does not hold goes into the next one.
    """
    datasets = [counts.name for counts in plan.datasets]
    while positions := find_retried(index := read_index(store, plan.run_id), ledger, statuses):
        is_ours = plan_wave(index, positions, spec.chunks, datasets, store)
        open_run(plan.run_id, store, ledger)
        if is_ours:
            return len(positions)
    return 0


def cancel_run(run_id: str, store: Store, ledger: Ledger) -> RunStatus:
    """Stop a run within one chunk of each worker; return its status.

    Raises ``ConfigError`` when no such run was planned, the ledger has lost it, or it is done.
    """
    tell = prepare_status(run_id, store, ledger)
    if tell().state == RunState.DONE:
        raise ConfigError(f"run {run_id} is done; there is nothing to cancel")
    ledger.cancel_run(run_id, "by producer cancel")
    return tell()


def ring_pending(model: str, run_id: str, store: Store, ledger: Ledger, app: Celery) -> int:
    """Ring for every chunk that is neither done nor leased; return how many."""
    return ring(app, model, run_id, ledger.iterate_pending(run_id), read_index(store, run_id))
