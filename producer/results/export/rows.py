"""The rows of a run for an export: the samples of the plan and their twins, with the outcomes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from common.errors import IntegrityError
from common.records import Media, Outcome, Sample, Twin
from common.storage.plan_index import read_chunk
from common.storage.run_record import PlannedRun
from common.storage.store import Store
from producer.results.collect import collect_outcomes

_READ_AHEAD = 8  # chunks, as in ``collect``


@dataclass(frozen=True, slots=True)
class Row:
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


def list_rows(sample: Sample) -> Iterator[Row]:
    """Yield the rows with this sample's request: the row of the sample, and its twins."""
    yield Row(sample)
    for twin in sample.twins:
        yield Row(sample, twin)


def read_samples(run: PlannedRun, store: Store) -> Iterator[Sample]:
    """Yield the samples of a run in plan order."""
    chunks = run.index.iterate_wave(run.index.waves[0])
    with ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="export") as pool:
        while ahead := list(islice(chunks, _READ_AHEAD)):
            for samples in pool.map(lambda chunk: read_chunk(store, chunk), ahead):
                yield from samples


def read_answers(run: PlannedRun, store: Store) -> Iterator[tuple[Sample, Outcome]]:
    """Yield each sample of a run with its outcome, in plan order. Raises ``IntegrityError`` as ``collect_outcomes`` does."""
    for sample, outcome in zip(read_samples(run, store), collect_outcomes(run.run_id, store), strict=True):
        if sample.sample_id != outcome.sample_id:
            raise IntegrityError(f"run {run.run_id}: sample {sample.sample_id} has the outcome of sample {outcome.sample_id}")
        yield sample, outcome
