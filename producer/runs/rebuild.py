"""Open a run in the ledger, and restore its finished chunks from the parts in the store."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from common.ledger.ledger import Ledger
from common.storage.keys import parse_part_key, parts_prefix
from common.storage.plan_index import read_part
from common.storage.run_record import PlannedRun
from common.storage.store import Store

_READ_AHEAD = 8  # parts; a remote store takes tens of milliseconds for each part


def open_run(run: PlannedRun, store: Store, ledger: Ledger, *, resets_abort: bool = False) -> bool:
    """Open a planned run in the ledger. Return True if this call created the ledger's record of the run.

    For a new record, set its ``abort_if`` and commit its parts. With ``resets_abort``, also set the ``abort_if`` of an existing
    record. A crash before the last part is committed does not lose results: if a chunk that has a part is run again, the
    existing part stays.
    """
    opened = ledger.open_run(run.plan, run.spec.model.name, chunks=len(run.index))
    if opened or resets_abort:
        ledger.set_abort(run.run_id, run.spec.abort_if)
    if opened:
        commit_parts(run, store, ledger)
    return opened


def commit_parts(run: PlannedRun, store: Store, ledger: Ledger) -> int:
    """Commit every part in the store and return their number. Idempotent: repeated calls give the same counts.

    Parts of waves that were planned after ``run`` was loaded are skipped, because the workers that wrote them commit them.
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
