"""Enqueue a run: plan it once, open it in the ledger, ring for every chunk that is not done."""

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from celery import Celery

from common.broker.app import ring
from common.errors import ConfigError, IntegrityError
from common.ledger.ledger import Ledger
from common.ledger.worker_registry import list_workers
from common.records import Plan, Record, Sample
from common.spec.models import RunSpec
from common.storage.keys import parse_part_key, parts_prefix, run_key
from common.storage.plan_index import read_chunk, read_part
from common.storage.run_record import PlannedRun, load_planned_run
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


def open_run(run: PlannedRun, store: Store, ledger: Ledger, *, resets_abort: bool = False) -> bool:
    """Open a planned run in the ledger; one that the ledger did not know gets what its parts say.

    Returns whether it was unknown.  Its ``abort_if`` is set then, or always with ``resets_abort``.  Dying between opening and
    the last part is no loss: a chunk whose part exists and that is run again ends in the same part.
    """
    opened = ledger.open_run(run.plan, run.spec.model.name, chunks=len(run.index))
    if opened or resets_abort:
        ledger.set_abort(run.run_id, run.spec.abort_if)
    if opened:
        commit_parts(run, store, ledger)
    return opened


def commit_parts(run: PlannedRun, store: Store, ledger: Ledger) -> int:
    """Commit every part that lies in the store; return how many.  Any number of times gives the same counts.

    Parts of a wave that was planned after ``run`` was loaded are left to the workers that have just written them.
    """
    index, datasets = run.index, run.plan.dataset_numbers
    listed = [parse_part_key(key)[1] for key in store.list_keys(parts_prefix(run.run_id))]
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
    run = load_planned_run(store, run_id)
    if rebuild:
        ledger.forget_run(run_id)
    open_run(run, store, ledger)
    retried = 0
    if retry:
        run, retried = retry_samples(run, retry, store, ledger)
    ledger.continue_run(run_id)
    rung = ring_pending(run, ledger, app)
    view = ledger.view_run(run_id)
    return Resumed(run_id=run_id, state=view.state if view else "unknown", rung=rung, retried=retried)


def retry_samples(run: PlannedRun, statuses: Collection[str], store: Store, ledger: Ledger) -> tuple[PlannedRun, int]:
    """Plan a wave of the samples in one of ``statuses`` and tell the ledger; return the run with it, and how many they are.

    A producer that was faster has planned a wave of its own: what it does not hold goes into the next one.
    """
    while positions := find_retried(run.index, ledger, statuses):
        is_ours = plan_wave(run, positions, store)
        run = run.reload_index(store)
        open_run(run, store, ledger)
        if is_ours:
            return run, len(positions)
    return run, 0


def cancel_run(run_id: str, store: Store, ledger: Ledger) -> RunStatus:
    """Stop a run within one chunk of each worker; return its status.

    Raises ``ConfigError`` when no such run was planned, the ledger has lost it, or it is done.
    """
    tell = prepare_status(run_id, store, ledger)
    if tell().state == "done":
        raise ConfigError(f"run {run_id} is done; there is nothing to cancel")
    ledger.cancel_run(run_id, "by producer cancel")
    return tell()


def ring_pending(run: PlannedRun, ledger: Ledger, app: Celery) -> int:
    """Ring for every chunk that is neither done nor leased; return how many."""
    return ring(app, run.spec.model.name, run.run_id, ledger.iterate_pending(run.run_id), run.index)
