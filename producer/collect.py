"""Collect a run's outcomes from the store: each sample exactly once, or an ``IntegrityError`` that names it."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from common.chunks import read_chunk, read_index, read_part, read_run
from common.errors import ConfigError, IntegrityError
from common.parts import OUTCOME_SCHEMA, to_table
from common.records import Chunk, Outcome, Sample
from common.store import Store

_READ_AHEAD = 8  # chunks; a store far away answers each in tens of milliseconds


def collect_outcomes(run_id: str, store: Store) -> Iterator[Outcome]:
    """Return an iterator over one outcome for each sample of the plan, in plan order.

    A sample whose chunk has no part yet comes as a placeholder with the status ``unprocessed``.  Raises ``ConfigError``,
    at once, when no such run was planned, and ``IntegrityError`` when plan or part is damaged or a part holds other
    samples than its chunk.
    """
    _, plan = read_run(store, run_id)
    index = read_index(store, run_id)
    if len(index) != plan.chunks:
        raise IntegrityError(f"run {run_id}: its plan has {plan.chunks} chunks, but its index has {len(index)}")
    return _read_chunks(store, iter(index))


def _read_chunks(store: Store, chunks: Iterator[Chunk]) -> Iterator[Outcome]:
    with ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="collect") as pool:
        while ahead := list(islice(chunks, _READ_AHEAD)):
            for outcomes in pool.map(lambda chunk: read_outcomes(store, chunk), ahead):
                yield from outcomes


def read_outcomes(store: Store, chunk: Chunk) -> list[Outcome]:
    """Return the outcomes of one chunk, verified against its samples, or placeholders if it has no part."""
    samples = read_chunk(store, chunk)
    part = read_part(store, chunk)
    if part is None:
        return [_hold_place(sample) for sample in samples]
    planned = [sample.sample_id for sample in samples]
    found = [outcome.sample_id for outcome in part.outcomes]
    if planned != found:
        differing = sorted(set(planned) ^ set(found)) or planned
        raise IntegrityError(f"{part.key} does not hold its chunk's samples; differing: {', '.join(differing[:5])}")
    return list(part.outcomes)


def _hold_place(sample: Sample) -> Outcome:
    # Not a valid outcome on purpose: `unprocessed` exists in collected tables alone.
    return Outcome.model_construct(
        sample_id=sample.sample_id,
        dataset=sample.dataset,
        index=sample.index,
        model="",
        status="unprocessed",  # type: ignore[arg-type]  # see above
        target=sample.target,
        metadata=sample.metadata,
    )


def write_results(outcomes: Iterator[Outcome], folder: Path) -> dict[str, int]:
    """Write ``results.parquet`` and ``results.jsonl`` into ``folder``; return how many samples have which status.

    Both appear under their names only when they are whole.  Raises ``ConfigError`` when they cannot be written.
    """
    try:
        return _write_results(outcomes, folder)
    except OSError as error:
        raise ConfigError(f"results cannot be written to {folder}: {error}") from error


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
