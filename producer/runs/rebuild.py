"""Open a run in the ledger, and rebuild there what the store's parts say is done."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from common.ledger.ledger import Ledger
from common.storage.keys import parse_part_key, parts_prefix
from common.storage.plan_index import read_part
from common.storage.run_record import PlannedRun
from common.storage.store import Store

_READ_AHEAD = 8  # parts; a store far away answers each in tens of milliseconds


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
