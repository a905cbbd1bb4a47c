"""A plan's chunks: the index that finds them in the store, and the samples of one, got by a single range read."""

import io
import json
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.errors import IntegrityError
from common.layout import index_key, run_key, samples_key
from common.records import Chunk, Plan, Sample
from common.spec import RunSpec
from common.store import Store

_COLUMNS = ("first", "count", "offset", "length", "crc32")


class ChunkIndex:
    """The chunks of a run's plan, by number.  Kept as columns: 100 million samples in chunks of 64 take 75 MB."""

    def __init__(self, run_id: str, columns: dict[str, NDArray[np.uint64]], datasets: NDArray[np.uint32]) -> None:
        self.run_id = run_id
        self._columns = columns
        self._datasets = datasets

    def __len__(self) -> int:
        return len(self._datasets)

    def __getitem__(self, number: int) -> Chunk:
        if not 0 <= number < len(self):
            raise IntegrityError(f"run {self.run_id} has no chunk {number}: its plan ends at {len(self) - 1}")
        values = {name: int(column[number]) for name, column in self._columns.items()}
        return Chunk(run_id=self.run_id, number=number, wave=1, datasets=tuple(self._datasets[number].tolist()), **values)

    def __iter__(self) -> Iterator[Chunk]:
        return (self[number] for number in range(len(self)))


def encode_index(chunks: Sequence[Chunk]) -> bytes:
    """Return the index of a plan's chunks, in order, as Parquet."""
    table = pa.table(
        {
            **{name: pa.array([getattr(chunk, name) for chunk in chunks], pa.uint64()) for name in _COLUMNS},
            "datasets": pa.array([chunk.datasets for chunk in chunks], pa.list_(pa.uint32())),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def read_index(store: Store, run_id: str) -> ChunkIndex:
    """Return the index of a run's plan."""
    table = pq.ParquetFile(io.BytesIO(store.get(index_key(run_id)))).read()
    datasets = table["datasets"].combine_chunks()
    width = len(datasets.values) // max(1, len(table))
    columns = {name: table[name].to_numpy() for name in _COLUMNS}
    return ChunkIndex(run_id, columns, datasets.values.to_numpy().reshape(len(table), width))


def read_chunk(store: Store, chunk: Chunk) -> list[Sample]:
    """Return a chunk's samples in plan order.  Raises ``IntegrityError`` when the stored bytes are not what was planned."""
    content = store.get_range(samples_key(chunk.run_id, chunk.wave), chunk.offset, chunk.length)
    if zlib.crc32(content) != chunk.crc32:
        raise IntegrityError(f"chunk {chunk.number} of {chunk.run_id}: the plan's samples object is damaged (checksum differs)")
    return [Sample.model_validate_json(line) for line in content.splitlines()]


def encode_run(spec: RunSpec, plan: Plan, created_s: float) -> bytes:
    """Return ``run.json``: what was asked, and the plan in numbers."""
    record = {
        "run_id": plan.run_id,
        "created_s": created_s,
        "plan": plan.model_dump(mode="json"),
        "spec": spec.model_dump(mode="json"),
    }
    return json.dumps(record, indent=2, ensure_ascii=False).encode()


def read_run(store: Store, run_id: str) -> tuple[RunSpec, Plan]:
    """Return what was asked and how it was planned.  Raises ``MissingObject`` when no such run was planned."""
    record = json.loads(store.get(run_key(run_id)))
    return RunSpec.model_validate(record["spec"]), Plan.model_validate(record["plan"])
