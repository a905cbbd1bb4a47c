"""Resume and cancel runs, and run samples again that failed or were answered invalidly."""

from collections.abc import Collection

from celery import Celery

from common.errors import ConfigError
from common.ledger.ledger import Ledger
from common.records import Record
from common.storage.run_record import PlannedRun, load_planned_run
from common.storage.store import Store
from producer.planning.waves import find_retried, plan_wave
from producer.runs.enqueue import ring_pending
from producer.runs.rebuild import open_run
from producer.runs.status import RunStatus, prepare_status

RETRIED = ("failed", "invalid")


class Resumed(Record):
    """What resuming did: chunks rung for, samples that are run again, and the run's state now."""

    run_id: str
    state: str
    rung: int
    retried: int


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
