"""Plan waves: samples that ended ``failed`` or ``invalid`` are run again, in separate chunks.

A wave exists when its index exists. The samples object is written before the index, and its key contains a digest of its
content. If two producers plan the same wave, or one is killed between the two writes, at most an unused object remains.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from common.digests import digest_bytes
from common.ledger.ledger import Ledger
from common.records import STATE_BYTES, Outcome, Sample
from common.storage.keys import index_key, wave_samples_key
from common.storage.plan_index import ChunkIndex, read_chunk
from common.storage.run_record import PlannedRun
from common.storage.store import Store
from producer.planning.plan import write_chunks
from producer.planning.shuffle import Spread, estimate_input_bytes
from producer.results.collect import read_outcomes


def find_retried(index: ChunkIndex, ledger: Ledger, statuses: Iterable[str]) -> list[int]:
    """Return the plan positions, ascending, of samples in one of ``statuses``, without the samples of unfinished waves.

    Each of ``statuses`` is ``failed`` or ``invalid``.
    """
    states = np.frombuffer(ledger.read_states(index.run_id), np.uint8)
    wanted = np.isin(states, [STATE_BYTES[status] for status in statuses])
    done = ledger.read_done(index.run_id)
    for wave in index.waves[1:]:
        for chunk in index.iterate_wave(wave):
            if done[chunk.number : chunk.number + 1] != b"\1":
                wanted[list(chunk.positions)] = False
    positions: list[int] = np.flatnonzero(wanted).tolist()
    return positions


def plan_wave(run: PlannedRun, positions: Sequence[int], store: Store) -> bool:
    """Plan the next wave from the samples at these plan positions, in ascending order. Return whether it was created.

    It is not created if another producer has planned this wave first. Each sample of the wave records the number of its
    earlier attempts and the violations of the last of them.
    """
    wave, numbers = len(run.index.waves) + 1, run.plan.dataset_numbers
    samples = zip(positions, _read_samples(store, run.index, positions), strict=True)
    groups = ([_spread(position, sample, numbers)] for position, sample in samples)
    lines = bytearray()
    builder = write_chunks(groups, run.spec.chunks, datasets=len(numbers), write=lines.extend, is_scattered=True)
    key = wave_samples_key(run.run_id, wave, digest_bytes(bytes(lines)))
    store.put(key, bytes(lines))
    return store.put_new(index_key(run.run_id, wave), builder.encode(key))


def _spread(position: int, sample: Sample, numbers: Mapping[str, int]) -> Spread:
    line = sample.model_dump_json(exclude_defaults=True).encode() + b"\n"
    input_bytes = estimate_input_bytes(sample, line)
    return Spread(b"", position, numbers[sample.dataset], input_bytes, sample.sample_id.encode(), line)


def _read_samples(store: Store, index: ChunkIndex, positions: Sequence[int]) -> Iterator[Sample]:
    """Yield the samples at these positions, each with a record of its attempts in the earlier waves."""
    plan, later = index.waves[0], index.waves[1:]
    reached = {wave.number: dict(_read_reached(store, index, wave.number, positions)) for wave in later}
    numbers = np.searchsorted(plan.columns["first"], np.asarray(positions, np.uint64), side="right") - 1
    for number, together in groupby(zip(numbers.tolist(), positions, strict=True), key=lambda pair: pair[0]):
        chunk = index[number]
        samples, outcomes = read_chunk(store, chunk), read_outcomes(store, chunk)
        for _, position in together:
            at = position - chunk.first
            waves = [outcomes[at], *(reached[wave.number][position] for wave in later if position in reached[wave.number])]
            yield _note_earlier(samples[at], waves)


def _read_reached(store: Store, index: ChunkIndex, number: int, positions: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
    wanted = np.asarray(positions, np.uint64)
    for chunk in index.iterate_wave(index.waves[number - 1]):
        if _overlap(wanted, np.asarray(chunk.scattered, np.uint64)):
            yield from zip(chunk.positions, read_outcomes(store, chunk), strict=True)


def _overlap(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> bool:
    return bool(np.isin(other, one, assume_unique=True).any())


def _note_earlier(sample: Sample, waves: Sequence[Outcome]) -> Sample:
    answered = [outcome for outcome in waves if outcome.attempts]
    attempts = [attempt for outcome in answered for attempt in outcome.attempts]
    violations = attempts[-1].violations if attempts else ()
    # A conversation that ended at an earlier turn does not have a response.
    turn = len(answered[-1].turns) + 1 if answered and answered[-1].response is None else None
    earlier = {"made_before": len(attempts), "violations_before": violations, "turn_before": turn}
    return sample.model_copy(update={"twins": (), **earlier})
