"""Collect the outcomes of a run from the store: each sample exactly once, or an ``IntegrityError`` that names it.

A sample represents all rows of its dataset with the same request. ``collect_rows`` yields an outcome for each of these rows.
"""

import heapq
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from common.errors import ConfigError, IntegrityError
from common.records import STATE_BYTES, Attempt, Chunk, Outcome, Sample, TurnAnswer, Twin
from common.storage.parts import OUTCOME_SCHEMA, to_table
from common.storage.plan_index import read_chunk, read_part
from common.storage.run_record import PlannedRun, load_planned_run
from common.storage.store import Store
from producer.results.rows import READ_AHEAD, PlannedRow, add_twins

UNPROCESSED = "unprocessed"


class Collected(NamedTuple):
    """One sample with its plan position, and its outcome in one wave or in all waves."""

    position: int
    sample: Sample
    outcome: Outcome


def collect_outcomes(run_id: str, store: Store) -> Iterator[Outcome]:
    """Return an iterator over one outcome for each sample of the plan, in plan order.

    If the chunk of a sample has no part yet, its outcome is a placeholder with the status ``unprocessed``. Raises
    ``ConfigError`` immediately if the store has no such run, and ``IntegrityError`` if the plan or a part is damaged, or if a
    part does not contain exactly the samples of its chunk.
    """
    return (collected.outcome for collected in _collect(load_planned_run(store, run_id), store))


def collect_rows(run_id: str, store: Store) -> Iterator[Outcome]:
    """Return an iterator over one outcome for each row of the datasets. Raises the errors of ``collect_outcomes``.

    Rows with the same request share the outcome of their sample. Each row has its own index, target and metadata. These rows are
    adjacent in the result.
    """
    run = load_planned_run(store, run_id)
    return (_name_row(row, outcome) for row, outcome in collect_answers(run, store))


def collect_answers(run: PlannedRun, store: Store) -> Iterator[tuple[PlannedRow, Outcome]]:
    """Return an iterator over the rows of a run, each with the outcome of its sample. Raises the errors of ``collect_outcomes``."""
    return add_twins(_collect(run, store), run, store)


def _name_row(row: PlannedRow, outcome: Outcome) -> Outcome:
    twin = row.twin
    if twin is None:
        return outcome
    own = {"index": twin.index, "target": twin.target, "metadata": twin.metadata}
    return outcome.model_copy(update={**own, "turns": _place_targets(outcome.turns, twin)})


def _place_targets(turns: tuple[TurnAnswer, ...], twin: Twin) -> tuple[TurnAnswer, ...]:
    """Return the answers to the earlier turns with the written answers of a twin's own row."""
    targets = twin.turn_targets or (None,) * len(turns)
    return tuple(turn.model_copy(update={"target": target}) for turn, target in zip(turns, targets, strict=False))


def _collect(run: PlannedRun, store: Store) -> Iterator[Collected]:
    plan, index = run.plan, run.index
    if index.waves[0].end != plan.chunks:
        raise IntegrityError(f"run {run.run_id}: its plan has {plan.chunks} chunks, but its index has {index.waves[0].end}")
    waves = [_read_wave(store, index.iterate_wave(wave)) for wave in index.waves]
    return waves[0] if len(waves) == 1 else _merge_waves(waves)


def _read_wave(store: Store, chunks: Iterator[Chunk]) -> Iterator[Collected]:
    """Yield the outcomes of the samples of a wave, in ascending order of position."""
    with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="collect") as pool:
        while ahead := list(islice(chunks, READ_AHEAD)):
            for chunk, read in zip(ahead, pool.map(lambda chunk: _read_chunk(store, chunk), ahead), strict=True):
                for position, (sample, outcome) in zip(chunk.positions, read, strict=True):
                    yield Collected(position, sample, outcome)


def _merge_waves(waves: list[Iterator[Collected]]) -> Iterator[Collected]:
    position_of = attrgetter("position")
    # Among equal positions heapq.merge keeps the order of the waves.
    for _, together in groupby(heapq.merge(*waves, key=position_of), key=position_of):
        of_waves = list(together)
        yield of_waves[0]._replace(outcome=merge_outcomes([collected.outcome for collected in of_waves]))


def merge_outcomes(waves: Sequence[Outcome]) -> Outcome:
    """Merge a sample's outcomes, given in the order of the waves. Return the best outcome; among equals, the earliest one.

    It contains the attempts of all waves, numbered in one sequence. A wave without an answer becomes an attempt with an empty
    response, the finish reason ``error``, and the error code as its violation.
    """
    reached = [outcome for outcome in waves if outcome.status != UNPROCESSED]
    if len(reached) < 2:
        return reached[0] if reached else waves[0]
    attempts = [attempt for outcome in reached for attempt in outcome.attempts or (_show_failure(outcome),)]
    numbered = tuple(attempt.model_copy(update={"number": number}) for number, attempt in enumerate(attempts, start=1))
    return max(reached, key=lambda outcome: STATE_BYTES[outcome.status]).model_copy(update={"attempts": numbered})


def _show_failure(outcome: Outcome) -> Attempt:
    return Attempt(number=1, response="", finish_reason="error", violations=(outcome.error_code or "failed",))


def read_outcomes(store: Store, chunk: Chunk) -> list[Outcome]:
    """Return the outcomes of one chunk, checked against its samples, or placeholders if it has no part."""
    return [outcome for _, outcome in _read_chunk(store, chunk)]


def _read_chunk(store: Store, chunk: Chunk) -> list[tuple[Sample, Outcome]]:
    samples = read_chunk(store, chunk)
    part = read_part(store, chunk)
    if part is None:
        return [(sample, _hold_place(sample)) for sample in samples]
    planned = [sample.sample_id for sample in samples]
    found = [outcome.sample_id for outcome in part.outcomes]
    if planned != found:
        differing = sorted(set(planned) ^ set(found)) or planned
        raise IntegrityError(f"{part.key} does not hold the samples of its chunk; differing: {', '.join(differing[:5])}")
    return list(zip(samples, part.outcomes, strict=True))


def _hold_place(sample: Sample) -> Outcome:
    # `model_construct` skips validation, because `unprocessed` is not a valid status outside collected tables.
    return Outcome.model_construct(
        sample_id=sample.sample_id,
        dataset=sample.dataset,
        index=sample.index,
        model="",
        status=UNPROCESSED,  # type: ignore[arg-type]  # see above
        target=sample.target,
        metadata=sample.metadata,
    )


def write_results(outcomes: Iterator[Outcome], folder: Path) -> dict[str, int]:
    """Write ``results.parquet`` and ``results.jsonl`` into ``folder``. Return the number of rows by status.

    Both files get their final names only when they are complete. Raises ``ConfigError`` if they cannot be written.
    """
    try:
        return _write_results(outcomes, folder)
    except OSError as error:
        raise ConfigError(
            f"results cannot be written to {folder}: {error}; check permissions and free space, or choose another folder"
        ) from error


def _write_results(outcomes: Iterator[Outcome], folder: Path) -> dict[str, int]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "results.parquet", folder / "results.jsonl"]
    unfinished = [path.with_name(f".{path.name}.{os.getpid()}") for path in paths]
    statuses: dict[str, int] = {}
    with ExitStack() as stack:
        for path in unfinished:
            stack.callback(path.unlink, missing_ok=True)
        with (
            pq.ParquetWriter(unfinished[0], OUTCOME_SCHEMA, compression="zstd") as table,
            unfinished[1].open("w", encoding="utf-8") as lines,
        ):
            while block := list(islice(outcomes, 4096)):
                table.write_table(to_table(block))
                for outcome in block:
                    statuses[outcome.status] = statuses.get(outcome.status, 0) + 1
                    lines.write(json.dumps(outcome.model_dump(mode="json"), ensure_ascii=False) + "\n")
        for whole, path in zip(unfinished, paths, strict=True):
            whole.replace(path)
    return statuses
