"""Resume and cancel runs, and retry samples that ended ``failed`` or ``invalid``."""

from collections.abc import Collection

from celery import Celery

from common.errors import ConfigError
from common.ledger.ledger import Ledger
from common.records import Record, RunState
from common.storage.run_record import PlannedRun, load_planned_run
from common.storage.store import Store
from producer.planning.waves import find_retried, plan_wave
from producer.runs.enqueue import ring_pending
from producer.runs.rebuild import open_run
from producer.runs.status import RunStatus, prepare_status

RETRIED = ("failed", "invalid")


class Resumed(Record):
    """The result of resuming a run.

    ``rung`` is the number of chunks for which a message was published, and ``retried`` is the number of samples to be run
    again. ``state`` is the run's state afterwards.
    """

    run_id: str
    state: str
    rung: int
    retried: int


def resume_run(
    run_id: str, store: Store, ledger: Ledger, app: Celery, *, retry: Collection[str] = (), rebuild: bool = False
) -> Resumed:
    """Resume a run that was paused or cancelled, or that Redis has lost.

    The samples with a status in ``retry`` (``failed``, ``invalid``) are run again. Each of them keeps its outcome until it has
    a better one. With ``rebuild``, the run is first deleted from the ledger and rebuilt from its plan and parts. Raises
    ``ConfigError`` if the store does not have the run. In that case, the ledger stays unchanged.
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
    """Plan a wave of the samples in one of ``statuses`` and open it in the ledger.

    Return the run with the new wave, and the number of its samples. If another producer plans this wave first, plan the
    remaining samples as the next wave.
    """
    while positions := find_retried(run.index, ledger, statuses):
        is_ours = plan_wave(run, positions, store)
        run = run.reload_index(store)
        open_run(run, store, ledger)
        if is_ours:
            return run, len(positions)
    return run, 0


def cancel_run(run_id: str, store: Store, ledger: Ledger) -> RunStatus:
    """Cancel a run and return its status. Each worker finishes the chunks that it holds.

    Raises ``ConfigError`` if the store does not have the run, the ledger has lost the run, or the run is done.
    """
    read = prepare_status(run_id, store, ledger)
    if read().state == RunState.DONE:
        raise ConfigError(f"run {run_id} is done; there is nothing to cancel")
    ledger.cancel_run(run_id, "by producer cancel")
    return read()
