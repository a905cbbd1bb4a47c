"""The index locates each chunk, and one range read loads it. A damaged object raises an error."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import ConfigError, IntegrityError
from common.records import Chunk, DatasetCounts, Plan
from common.storage.keys import index_key, part_key, run_key, samples_key
from common.storage.plan_index import ChunkIndex, IndexBuilder, read_chunk, read_index, read_part
from common.storage.run_record import encode_run, read_run
from common.storage.store import Store, open_store
from tests.support.planning import make_samples, make_spec, plan_samples, put_part


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


@pytest.fixture
def index(store: Store) -> ChunkIndex:
    return plan_samples(store, make_samples(20), make_spec(max_samples=8))[1]


def flip_byte(store: Store, key: str, at: int) -> None:
    content = bytearray(store.get(key))
    content[at] ^= 0x20
    store.put(key, bytes(content))


def test_chunk_is_read_by_one_range_read(store: Store, index: ChunkIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    get_range = Store.get_range

    def note(self: Store, key: str, offset: int, length: int) -> bytes:
        reads.append((key, offset, length))
        return get_range(self, key, offset, length)

    monkeypatch.setattr(Store, "get_range", note)
    assert len(read_chunk(store, index[1])) == 8
    assert reads == [(samples_key(index.run_id), index[1].offset, index[1].length)]


def test_damaged_chunk_does_not_affect_other_chunks(store: Store, index: ChunkIndex) -> None:
    flip_byte(store, samples_key(index.run_id), index[1].offset + 30)
    with pytest.raises(IntegrityError, match=rf"chunk 1 of {index.run_id}: .*damaged"):
        read_chunk(store, index[1])
    assert [len(read_chunk(store, index[number])) for number in (0, 2)] == [8, 4]


def test_truncated_or_missing_samples_object_is_integrity_error(store: Store, index: ChunkIndex, tmp_path: Path) -> None:
    key = samples_key(index.run_id)
    store.put(key, store.get(key)[:-1])
    with pytest.raises(IntegrityError):
        read_chunk(store, index[2])
    (tmp_path / key).unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        read_chunk(store, index[0])


@pytest.mark.parametrize("kept", [slice(0), slice(-9), slice(9, None)])
def test_truncated_index_is_an_integrity_error(store: Store, index: ChunkIndex, kept: slice) -> None:
    key = index_key(index.run_id)
    store.put(key, store.get(key)[kept])
    with pytest.raises(IntegrityError, match=r"index\.parquet of a planned run cannot be read"):
        read_index(store, index.run_id)


def test_flipped_bit_in_index_is_detected_or_harmless(store: Store, index: ChunkIndex) -> None:
    key, chunks = index_key(index.run_id), list(index)
    whole, found = store.get(key), 0
    for at in range(len(whole)):
        store.put(key, whole)
        flip_byte(store, key, at)
        try:
            assert list(read_index(store, index.run_id)) == chunks
        except IntegrityError:
            found += 1
    assert found > len(whole) // 2


def test_missing_index_is_an_integrity_error(store: Store, index: ChunkIndex, tmp_path: Path) -> None:
    (tmp_path / index_key(index.run_id)).unlink()
    with pytest.raises(IntegrityError, match=r"index\.parquet"):
        read_index(store, index.run_id)


def test_chunk_number_outside_plan_is_integrity_error(index: ChunkIndex) -> None:
    for number in (-1, 3):
        with pytest.raises(IntegrityError, match=rf"has no chunk {number}: its plan ends at 2"):
            index[number]
    assert [chunk.number for chunk in index] == [0, 1, 2]


def test_index_of_many_chunks_is_read_back(store: Store) -> None:
    """The index exceeds one Parquet row group (1 048 576 chunks), and its offsets exceed 32 bits."""
    count, length, datasets = 1_050_000, 6, np.array([2, 0, 1], np.uint32)
    builder = IndexBuilder()
    for number in range(count):
        builder.append(first=3 * number, offset=length * number + 2**33, length=length, crc32=0, datasets=datasets)
    assert len(builder) == count
    store.put(index_key("large-1"), builder.encode())
    index = read_index(store, "large-1")
    assert len(index) == count
    for number in (0, 65_537, 1_048_575, 1_048_576, count - 1):
        chunk = index[number]
        assert (chunk.number, chunk.first, chunk.count, chunk.offset) == (number, 3 * number, 3, length * number + 2**33)
        assert (chunk.length, chunk.datasets) == (length, (2, 0, 1))


def test_index_counts_samples_per_dataset(store: Store) -> None:
    builder = IndexBuilder()
    for number in range(5):
        builder.append(first=0, offset=0, length=0, crc32=0, datasets=np.array([number, 1], np.uint32))
    store.put(index_key("r"), builder.encode())
    assert [chunk.datasets for chunk in read_index(store, "r")] == [(number, 1) for number in range(5)]
    assert [chunk.count for chunk in read_index(store, "r")] == [number + 1 for number in range(5)]


def test_read_part_returns_part_none_or_raises(store: Store, index: ChunkIndex) -> None:
    chunk = index[0]
    assert read_part(store, chunk) is None
    outcomes = put_part(store, chunk, statuses=("ok", "invalid", "failed"))
    part = read_part(store, chunk)
    assert part is not None
    assert (part.chunk, part.key, list(part.outcomes)) == (0, part_key(index.run_id, 1, 0), outcomes)
    store.put(part_key(index.run_id, 1, 1), store.get(part.key))
    with pytest.raises(IntegrityError, match=r"chunk 1.*chunk 0"):
        read_part(store, index[1])


def test_run_record_survives_a_round_trip(store: Store) -> None:
    spec = make_spec("one", "two", seed=7)
    counts = tuple(DatasetCounts(name=name, rows=3, unique=2, duplicates=1) for name in ("one", "two"))
    plan = Plan(run_id=spec.run_id, samples=4, chunks=1, datasets=counts)
    store.put(run_key(spec.run_id), encode_run(spec, plan, 12.5))
    assert read_run(store, spec.run_id) == (spec, plan)
    record = json.loads(store.get(run_key(spec.run_id)))
    assert (record["run_id"], record["created_s"]) == (spec.run_id, 12.5)


def test_unknown_run_is_a_config_error(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"no run 'tiny-0' in file://.*set FLEET_STORE_URL to the store"):
        read_run(store, "tiny-0")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"spec": {}, "plan": {}}', b"\xff"])
def test_damaged_run_record_is_an_integrity_error(store: Store, content: bytes) -> None:
    store.put(run_key("tiny-0"), content)
    with pytest.raises(IntegrityError, match=r"runs/tiny-0/run\.json is not a valid run record"):
        read_run(store, "tiny-0")


def test_positions_start_at_the_first_sample() -> None:
    chunk = Chunk(run_id="r", number=2, wave=1, first=16, count=3, samples_key="", offset=0, length=0, crc32=0, datasets=(3,))
    assert list(chunk.positions) == [16, 17, 18]
    assert list(chunk.model_copy(update={"scattered": (1, 16, 40)}).positions) == [1, 16, 40]
