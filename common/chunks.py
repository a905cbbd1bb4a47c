"""A plan's chunks: the index that finds them in the store, the samples of one, got by a single range read, and its part."""

import io
import json
import zlib
from array import array
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.errors import ConfigError, IntegrityError
from common.layout import index_key, part_key, run_key, samples_key
from common.parts import decode_part
from common.records import Chunk, Part, Plan, Sample
from common.spec import RunSpec
from common.store import MissingObject, Store

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


class IndexBuilder:
    """Collects a plan's chunks while its samples are written.  Kept as columns, like the index itself."""

    def __init__(self) -> None:
        self._columns = {name: array("Q") for name in _COLUMNS}
        self._datasets = array("I")

    def __len__(self) -> int:
        return len(self._columns["first"])

    def append(self, content: bytes, *, first: int, offset: int, datasets: NDArray[np.uint32]) -> None:
        """Add a chunk: its stored bytes, first position, offset in the samples object and samples by dataset number."""
        values = (first, int(datasets.sum()), offset, len(content), zlib.crc32(content))
        for name, value in zip(_COLUMNS, values, strict=True):
            self._columns[name].append(value)
        self._datasets.frombytes(datasets.tobytes())

    def encode(self) -> bytes:
        """Return the index as Parquet."""
        columns = {name: pa.array(np.frombuffer(column, np.uint64)) for name, column in self._columns.items()}
        counts = np.frombuffer(self._datasets, np.uint32)
        begins = np.arange(len(self) + 1, dtype=np.int32) * (len(counts) // len(self))
        table = pa.table({**columns, "datasets": pa.ListArray.from_arrays(begins, counts)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        return bytes(sink.getvalue())


def read_index(store: Store, run_id: str) -> ChunkIndex:
    """Return the index of a run's plan.  Raises ``IntegrityError`` when it is damaged or gone."""
    key = index_key(run_id)
    try:
        table = pq.ParquetFile(io.BytesIO(store.get(key)), page_checksum_verification=True).read()
        columns = {name: table[name].to_numpy() for name in _COLUMNS}
        datasets = pc.list_flatten(table["datasets"]).to_numpy().reshape(len(table), -1)
    except (MissingObject, pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise IntegrityError(f"{key} of a planned run cannot be read: {error}") from error
    return ChunkIndex(run_id, columns, datasets)


def read_chunk(store: Store, chunk: Chunk) -> list[Sample]:
    """Return a chunk's samples in plan order.  Raises ``IntegrityError`` when the stored bytes are not what was planned."""
    try:
        content = store.get_range(samples_key(chunk.run_id, chunk.wave), chunk.offset, chunk.length)
    except MissingObject as error:
        raise IntegrityError(f"chunk {chunk.number} of {chunk.run_id}: the plan's samples object is gone: {error}") from error
    if zlib.crc32(content) != chunk.crc32:
        raise IntegrityError(f"chunk {chunk.number} of {chunk.run_id}: the plan's samples object is damaged (checksum differs)")
    return [Sample.model_validate_json(line) for line in content.splitlines()]


def read_part(store: Store, chunk: Chunk) -> Part | None:
    """Return a chunk's part, or ``None`` while there is none.  Raises ``IntegrityError`` when it is damaged."""
    key = part_key(chunk.run_id, chunk.wave, chunk.number)
    try:
        content = store.get(key)
    except MissingObject:
        return None
    return Part(
        run_id=chunk.run_id, chunk=chunk.number, key=key, outcomes=decode_part(content, run_id=chunk.run_id, chunk=chunk.number)
    )


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
    """Return what was asked and how it was planned.

    Raises ``ConfigError`` when no such run was planned, and ``IntegrityError`` when its record is damaged.
    """
    try:
        record = json.loads(store.get(run_key(run_id)))
        return RunSpec.model_validate(record["spec"]), Plan.model_validate(record["plan"])
    except MissingObject:
        raise ConfigError(f"no run {run_id!r} in {store.url}; is FLEET_STORE_URL the one it was enqueued with?") from None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{run_key(run_id)} is no record of a run: {error}") from error
