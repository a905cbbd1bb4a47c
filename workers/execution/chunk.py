"""A chunk's way through a worker.  Durable order: journal, part, commit; dying between any two loses nothing."""

from collections.abc import Sequence

from common.errors import IntegrityError
from common.records import Chunk, Outcome, Part
from common.storage.keys import part_key
from common.storage.parts import encode_part
from common.storage.plan_index import read_chunk, read_part
from common.storage.store import Store
from workers.execution.quarantine import answer_chunk
from workers.recovery.lease_keeper import HeldLease
from workers.runtime.admission import Permit
from workers.runtime.worker import Slot


def run_chunk(slot: Slot, run_id: str, number: int, *, at_once: bool = False) -> str:
    """Run a chunk once there is room for it (``at_once``: without waiting for room); return in a word what became of it.

    Raises ``LeaseLost`` when the chunk went to another worker and ``IntegrityError`` when plan or part contradict
    themselves.  Does not return when the engine is gone: the process ends.
    """
    chunk = slot.load_run(run_id).index[number]
    room = slot.intake.admit(chunk.count, until=lambda: at_once or slot.draining)
    with room as place, slot.hold(run_id, number) as held:
        return run_leased(slot, chunk, held, place) if held else "not needed"


def run_leased(slot: Slot, chunk: Chunk, held: HeldLease, place: Permit) -> str:
    """Answer what the chunk's journal lacks, write its part and commit it; see ``run_chunk``."""
    lease, run = held.lease, slot.load_run(chunk.run_id)
    part = read_part(slot.store, chunk)
    if part is None:
        samples = read_chunk(slot.store, chunk)
        outcomes = slot.ledger.read_journal(lease)
        place.leave(len(outcomes))
        waiting = [sample for sample in samples if sample.sample_id not in outcomes]
        for finished in answer_chunk(slot, run, lease, waiting, until=lambda: held.lost or slot.grace_over):
            slot.ledger.journal(lease, finished)
            slot.pace.count(finished)
            outcomes.update((outcome.sample_id, outcome) for outcome in finished)
            place.leave(len(finished))
        if len(outcomes) < len(samples):
            slot.give_back(lease)
            return "given back"
        part = write_part(slot.store, chunk, [outcomes[sample.sample_id] for sample in samples])
    slot.ledger.commit(chunk, part, run.datasets)
    return "done"


def write_part(store: Store, chunk: Chunk, outcomes: Sequence[Outcome]) -> Part:
    """Put the chunk's part in one create-if-absent write; whoever comes second gets the winner's part."""
    key = part_key(chunk.run_id, chunk.wave, chunk.number)
    if store.put_new(key, encode_part(chunk.run_id, chunk.number, outcomes)):
        return Part(run_id=chunk.run_id, chunk=chunk.number, key=key, outcomes=tuple(outcomes))
    winner = read_part(store, chunk)
    if winner is None:
        raise IntegrityError(f"{key} exists and cannot be read; was it deleted just now?")
    return winner
