"""Run a chunk in a worker. The durable order is journal, part, commit. A crash between two of them does not lose outcomes."""

from collections.abc import Sequence
from enum import StrEnum

from common.errors import IntegrityError
from common.records import Chunk, Outcome, Part
from common.storage.keys import part_key
from common.storage.parts import encode_part
from common.storage.plan_index import read_chunk, read_part
from common.storage.store import Store
from workers.execution.quarantine import answer_chunk
from workers.recovery.lease_keeper import HeldLease
from workers.runtime.admission import Permit
from workers.runtime.worker import Worker


class ChunkResult(StrEnum):
    """The result of running a chunk. ``docs/flower.md`` lists the words."""

    DONE = "done"
    NOT_NEEDED = "not needed"
    GIVEN_BACK = "given back"
    LOST = "lost"
    AWAY = "away"
    FAILED = "failed"
    UNKNOWN = "unknown"


def run_chunk(worker: Worker, run_id: str, number: int, *, at_once: bool = False) -> ChunkResult:
    """Run a chunk as soon as there is room for it. ``at_once`` skips the wait for room.

    Raises ``LeaseLost`` if another worker took the chunk over, and ``IntegrityError`` if the plan and the part contradict each
    other. Does not return if the engine dies, because the process then ends.
    """
    chunk = worker.runs.load(run_id).index[number]
    admitted = worker.admission.admit(chunk.count, until=lambda: at_once or worker.leases.draining)
    with admitted as permit, worker.leases.hold(run_id, number) as held, worker.exit_on_engine_error():
        return run_leased(worker, chunk, held, permit) if held else ChunkResult.NOT_NEEDED


def run_leased(worker: Worker, chunk: Chunk, held: HeldLease, permit: Permit) -> ChunkResult:
    """Answer the samples that the chunk's journal lacks, write its part and commit it. Raises the errors of ``run_chunk``."""
    lease, run = held.lease, worker.runs.load(chunk.run_id)
    part = read_part(worker.store, chunk)
    if part is None:
        samples = read_chunk(worker.store, chunk)
        outcomes = worker.ledger.read_journal(lease)
        permit.release(len(outcomes))
        waiting = [sample for sample in samples if sample.sample_id not in outcomes]
        for finished in answer_chunk(worker, run, lease, waiting, until=lambda: held.lost or worker.leases.grace_over):
            worker.ledger.journal(lease, finished)
            worker.throughput.count(finished)
            outcomes.update((outcome.sample_id, outcome) for outcome in finished)
            permit.release(len(finished))
        if len(outcomes) < len(samples):
            worker.leases.give_back(lease)
            return ChunkResult.GIVEN_BACK
        part = write_part(worker.store, chunk, [outcomes[sample.sample_id] for sample in samples])
    worker.ledger.commit(chunk, part, run.datasets)
    return ChunkResult.DONE


def write_part(store: Store, chunk: Chunk, outcomes: Sequence[Outcome]) -> Part:
    """Put the chunk's part in one create-if-absent write. Return the existing part if another worker wrote it first."""
    key = part_key(chunk.run_id, chunk.wave, chunk.number)
    if store.put_new(key, encode_part(chunk.run_id, chunk.number, outcomes)):
        return Part(run_id=chunk.run_id, chunk=chunk.number, key=key, outcomes=tuple(outcomes))
    winner = read_part(store, chunk)
    if winner is None:
        raise IntegrityError(f"{key} exists but cannot be read; check whether another program deletes objects of the store")
    return winner
