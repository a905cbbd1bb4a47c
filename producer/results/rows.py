"""The rows of a planned run: the samples of the plan and their twins."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from common.errors import IntegrityError
from common.records import Media, Sample, Twin
from common.storage.plan_index import read_chunk
from common.storage.run_record import PlannedRun
from common.storage.store import Store
from common.storage.twins import read_twins

READ_AHEAD = 8  # chunks; a remote store takes tens of milliseconds for each
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One row of a dataset: the row of a sample, or a ``twin`` of it, which has the same request and outcome."""

    sample: Sample
    twin: Twin | None = None

    @property
    def index(self) -> str:
        return self.twin.index if self.twin else self.sample.index

    @property
    def media(self) -> Media | None:
        """Return the row's first image or video, or None."""
        media = (self.twin and self.twin.media) or self.sample.media
        return media[0] if media else None

    def describe(self) -> str:
        return f"row {self.index!r} of dataset {self.sample.dataset!r}"


def read_rows(run: PlannedRun, store: Store) -> Iterator[PlannedRow]:
    """Yield the rows of a run in plan order. The rows of a sample are adjacent."""
    samples = ((position, sample, None) for position, sample in enumerate(_read_samples(run, store)))
    return (row for row, _ in add_twins(samples, run, store))


def _read_samples(run: PlannedRun, store: Store) -> Iterator[Sample]:
    chunks = run.index.iterate_wave(run.index.waves[0])
    with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="rows") as pool:
        while ahead := list(islice(chunks, READ_AHEAD)):
            for samples in pool.map(lambda chunk: read_chunk(store, chunk), ahead):
                yield from samples


def add_twins(samples: Iterable[tuple[int, Sample, Value]], run: PlannedRun, store: Store) -> Iterator[tuple[PlannedRow, Value]]:
    """Yield the rows of all samples of a run, each with the value of its sample.

    ``samples`` contains each sample with its plan position and a value, in plan order. Raises ``IntegrityError`` if the twins of
    the plan are damaged.
    """
    twins = read_twins(store, run.plan)
    following = next(twins, None)
    for position, sample, value in samples:
        yield PlannedRow(sample), value
        yield from ((PlannedRow(sample, twin), value) for twin in sample.twins)  # of a plan of an earlier version
        while following and following[0] == position:
            yield PlannedRow(sample, following[1]), value
            following = next(twins, None)
    if following:
        raise IntegrityError(f"run {run.run_id}: its plan has twins of a sample at position {following[0]}, but no such sample")
