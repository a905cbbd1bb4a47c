"""The chunks of a plan: their index, and functions that read a chunk's samples (one range read) and its part."""

import io
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.errors import IntegrityError
from common.records import Chunk, Part, Sample
from common.storage.keys import index_key, part_key, parts_prefix, samples_key
from common.storage.parts import decode_part
from common.storage.store import MissingObject, Store

_COLUMNS = ("first", "count", "offset", "length", "crc32")
# Advice for a damaged plan.
WRITE_AGAIN = "delete it if it exists, then enqueue the same spec again: that rewrites the plan and keeps finished chunks"


@dataclass(frozen=True, slots=True)
class Wave:
    """The chunks of one wave, as columns: 100 million samples in chunks of 64 take 75 MB.

    ``begin`` is the number of its first chunk. ``positions`` are the plan positions of the samples of a later wave, in
    ascending order. In wave 1 they are ``None``, because that wave contains every position.
    """

    number: int
    begin: int
    samples_key: str
    columns: dict[str, NDArray[np.uint64]]
    datasets: NDArray[np.uint32]
    positions: NDArray[np.uint64] | None = None

    @property
    def end(self) -> int:
        return self.begin + len(self.datasets)

    def read_chunk(self, run_id: str, number: int) -> Chunk:
        row = number - self.begin
        values = {name: int(column[row]) for name, column in self.columns.items()}
        scattered: tuple[int, ...] = ()
        if self.positions is not None:
            begin = int(self.columns["count"][:row].sum())
            scattered = tuple(self.positions[begin : begin + values["count"]].tolist())
        return Chunk(
            run_id=run_id,
            number=number,
            wave=self.number,
            samples_key=self.samples_key,
            datasets=tuple(self.datasets[row].tolist()),
            scattered=scattered,
            **values,
        )


class ChunkIndex:
    """The chunks of a run by number. The numbering continues across waves."""

    def __init__(self, run_id: str, waves: Sequence[Wave]) -> None:
        self.run_id = run_id
        self.waves = waves
        self._begins = [wave.begin for wave in waves]

    def __len__(self) -> int:
        return self.waves[-1].end

    def __getitem__(self, number: int) -> Chunk:
        if not 0 <= number < len(self):
            raise IntegrityError(f"run {self.run_id} has no chunk {number}: its plan ends at {len(self) - 1}")
        return self.waves[bisect_right(self._begins, number) - 1].read_chunk(self.run_id, number)

    def __iter__(self) -> Iterator[Chunk]:
        return (self[number] for number in range(len(self)))

    def iterate_wave(self, wave: Wave) -> Iterator[Chunk]:
        return (wave.read_chunk(self.run_id, number) for number in range(wave.begin, wave.end))


class IndexBuilder:
    """A builder that collects the chunks of a wave while its samples are written. It stores columns, as the index does."""

    def __init__(self) -> None:
        self._columns = {name: array("Q") for name in _COLUMNS}
        self._datasets = array("I")
        self._positions = array("Q")

    def __len__(self) -> int:
        return len(self._columns["first"])

    def append(
        self, *, first: int, offset: int, length: int, crc32: int, datasets: NDArray[np.uint32], scattered: Sequence[int] = ()
    ) -> None:
        """Add a chunk.

        - ``offset`` and ``length`` locate the chunk's bytes in the samples object, and ``crc32`` is their checksum.
        - ``first`` is the plan position of the chunk's first sample.
        - ``datasets`` is the chunk's number of samples by dataset number.
        - ``scattered`` lists all plan positions of a chunk of a later wave.
        """
        values = (first, int(datasets.sum()), offset, length, crc32)
        for name, value in zip(_COLUMNS, values, strict=True):
            self._columns[name].append(value)
        self._datasets.frombytes(datasets.tobytes())
        self._positions.extend(scattered)

    def encode(self, samples_key: str = "") -> bytes:
        """Return the index as Parquet. The index of a later wave names its samples object, to which the offsets refer."""
        columns = {name: pa.array(np.frombuffer(column, np.uint64)) for name, column in self._columns.items()}
        counts = np.frombuffer(self._datasets, np.uint32)
        begins = np.arange(len(self) + 1, dtype=np.int32) * (len(counts) // len(self))
        columns["datasets"] = pa.ListArray.from_arrays(begins, counts)
        if self._positions:
            ends = np.cumsum(self._columns["count"], dtype=np.int32)
            columns["samples_key"] = pa.array([samples_key] * len(self))
            columns["positions"] = pa.ListArray.from_arrays(np.insert(ends, 0, 0), np.frombuffer(self._positions, np.uint64))
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd", write_page_checksum=True)
        return bytes(sink.getvalue())


def read_index(store: Store, run_id: str) -> ChunkIndex:
    """Return the index of all waves of a run.

    Raises ``IntegrityError`` if the index of a wave is damaged, or if the index of wave 1 is missing.
    """
    waves: list[Wave] = []
    while (content := _find_index(store, run_id, len(waves) + 1)) is not None:
        waves.append(_read_wave(content, run_id, len(waves) + 1, len(waves) and waves[-1].end))
    if not waves:
        raise IntegrityError(f"{index_key(run_id)} of a planned run is missing; {WRITE_AGAIN}")
    _check_last_wave(store, run_id, len(waves))
    return ChunkIndex(run_id, waves)


def _check_last_wave(store: Store, run_id: str, last: int) -> None:
    """Raise ``IntegrityError`` if a wave after ``last`` has parts, because then its index is missing."""
    key, parts = index_key(run_id, last + 1), f"{parts_prefix(run_id)}w{last + 1}/"
    if next(store.list_keys(parts), None) is not None and not store.exists(key):
        raise IntegrityError(f"{key} is missing, but parts of that wave exist; {_advise_dropping(run_id, last + 1)}")


def _advise_dropping(run_id: str, wave: int) -> str:
    return (
        f"restore it; or delete it and {parts_prefix(run_id)}w{wave}/, so that its samples keep their earlier outcomes; "
        f"then run: producer resume {run_id} --rebuild"
    )


def _find_index(store: Store, run_id: str, wave: int) -> bytes | None:
    try:
        return store.get(index_key(run_id, wave))
    except MissingObject:
        return None


def _read_wave(content: bytes, run_id: str, number: int, begin: int) -> Wave:
    key = index_key(run_id, number)
    try:
        table = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True).read()
        columns = {name: table[name].to_numpy() for name in _COLUMNS}
        datasets = pc.list_flatten(table["datasets"]).to_numpy().reshape(len(table), -1)
        named, positions = samples_key(run_id), None
        if number > 1:
            named, positions = table["samples_key"][0].as_py(), pc.list_flatten(table["positions"]).to_numpy()
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        advice = WRITE_AGAIN if number == 1 else _advise_dropping(run_id, number)
        raise IntegrityError(f"{key} of a planned run cannot be read ({error}); {advice}") from error
    return Wave(number, begin, named, columns, datasets, positions)


def read_chunk(store: Store, chunk: Chunk) -> list[Sample]:
    """Return the samples of a chunk in plan order. Raises ``IntegrityError`` if the stored bytes are not the planned bytes."""
    where = f"chunk {chunk.number} of {chunk.run_id}: the plan's samples object {chunk.samples_key}"
    try:
        content = store.get_range(chunk.samples_key, chunk.offset, chunk.length)
    except (MissingObject, IntegrityError) as error:
        raise IntegrityError(f"{where} is missing or cut short ({error}); {WRITE_AGAIN}") from error
    if zlib.crc32(content) != chunk.crc32:
        raise IntegrityError(f"{where} is damaged (checksum differs); {WRITE_AGAIN}")
    return [Sample.model_validate_json(line) for line in content.splitlines()]


def read_part(store: Store, chunk: Chunk) -> Part | None:
    """Return the part of a chunk, or ``None`` if it does not exist yet. Raises ``IntegrityError`` if the part is damaged."""
    key = part_key(chunk.run_id, chunk.wave, chunk.number)
    try:
        content = store.get(key)
    except MissingObject:
        return None
    try:
        outcomes = decode_part(content, run_id=chunk.run_id, chunk=chunk.number)
    except IntegrityError as error:
        raise IntegrityError(
            f"{error}; delete {key} from {store.url}, then run its samples again with: producer resume {chunk.run_id} --rebuild"
        ) from error
    return Part(run_id=chunk.run_id, chunk=chunk.number, key=key, outcomes=outcomes)
