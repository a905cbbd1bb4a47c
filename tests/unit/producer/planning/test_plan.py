"""The plan: reproducible bytes, chunks within their bounds, atomic storage and bounded memory."""

import json
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from common.errors import ConfigError, SampleError
from common.records import DatasetCounts, Media, Sample
from common.spec.models import Chunks
from common.storage.keys import index_key, run_key, samples_key
from common.storage.plan_index import read_chunk, read_index
from common.storage.run_record import read_run
from common.storage.store import Store, open_store
from producer.planning.long_lines import read_line
from producer.planning.plan import cut_chunks, describe_plan, plan_run
from producer.planning.shuffle import Counts, Spread, shuffle_samples
from producer.planning.twins import open_twin_file
from tests.support.planning import make_sample, make_samples, make_spec, plan_samples

SIZES = st.lists(st.lists(st.integers(1, 120), min_size=1, max_size=8), max_size=20)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Redirect temporary files to a folder of this test, and check that planning leaves it empty."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("different", "is_noticed"), [(1, True), (5, True), (6, False), (10, False)])
def test_rows_with_the_same_request_are_noticed(store: Store, different: int, is_noticed: bool) -> None:
    samples = [make_sample(number, request_digest=f"{number % different}", group="g") for number in range(10)]
    with capture_logs() as lines:
        plan_samples(store, samples, make_spec())
    assert [(line["event"], line["rows"]) for line in lines] == ([("dataset.rows_alike", 10)] if is_noticed else [])
    described = describe_plan(make_spec(), samples)
    assert [notice.event for notice in described["notices"]] == ["dataset.rows_alike"] * is_noticed


def make_groups(sizes: list[list[int]]) -> list[list[Spread]]:
    """Return groups of entries. ``sizes`` gives the input bytes of each entry."""
    return [
        [Spread(bytes([number]), place, 0, size, b"", f"{number}.{place}\n".encode()) for place, size in enumerate(group)]
        for number, group in enumerate(sizes)
    ]


@given(sizes=SIZES, max_samples=st.integers(1, 6), max_input_bytes=st.integers(1, 300))
def test_only_oversized_groups_are_split(sizes: list[list[int]], max_samples: int, max_input_bytes: int) -> None:
    groups = make_groups(sizes)
    chunks = list(cut_chunks(groups, Chunks(max_samples=max_samples, max_input_bytes=max_input_bytes)))
    assert [entry for chunk in chunks for entry in chunk] == [entry for group in groups for entry in group]
    for chunk in chunks:
        assert 1 <= len(chunk) <= max_samples
        assert sum(entry.input_bytes for entry in chunk) <= max_input_bytes or len(chunk) == 1
    for group in groups:
        holders = [chunk for chunk in chunks if any(entry.order == group[0].order for entry in chunk)]
        too_large = len(group) > max_samples or sum(entry.input_bytes for entry in group) > max_input_bytes
        assert len(holders) == 1 or too_large


@given(sizes=SIZES)
def test_chunks_are_filled_with_whole_groups(sizes: list[list[int]]) -> None:
    """Check that the first group of a chunk does not fit into the previous chunk."""
    chunks = list(cut_chunks(make_groups(sizes), Chunks(max_samples=8, max_input_bytes=10**6)))
    for before, after in pairwise(chunks):
        first_group = [entry for entry in after if entry.order == after[0].order]
        assert len(before) + len(first_group) > 8


def test_stored_chunks_hold_the_shuffled_samples(store: Store, tmp_path: Path) -> None:
    samples = [make_sample(number, dataset=name, group=f"page {number // 3}") for number in range(100) for name in ("one", "two")]
    spec = make_spec("one", "two", max_samples=7, seed=3)
    plan, index = plan_samples(store, [*samples, *samples[:20]], spec)
    chunks = list(index)
    stored = [sample for chunk in chunks for sample in read_chunk(store, chunk)]

    folder = tmp_path / "separate"
    folder.mkdir()
    with open_twin_file(folder) as twins:
        groups = shuffle_samples([*samples, *samples[:20]], Counts(["one", "two"]), seed=3, scratch=folder, twins=twins)
        assert stored == [Sample.model_validate_json(read_line(entry.line)) for group in groups for entry in group]
    assert (plan.samples, plan.chunks) == (200, len(chunks))
    assert plan.datasets == (
        DatasetCounts(name="one", rows=110, unique=100, duplicates=10),
        DatasetCounts(name="two", rows=110, unique=100, duplicates=10),
    )
    assert [place for chunk in chunks for place in chunk.positions] == list(range(200))
    ends = [0, *(chunk.offset + chunk.length for chunk in chunks)]
    assert [chunk.offset for chunk in chunks] == ends[:-1]
    assert ends[-1] == len(store.get(samples_key(spec.run_id)))
    for chunk in chunks:
        held = [sample.dataset for sample in read_chunk(store, chunk)]
        assert chunk.datasets == (held.count("one"), held.count("two"))
    assert read_run(store, spec.run_id) == (spec, plan)


def test_planning_twice_writes_the_same_bytes(store: Store, tmp_path: Path) -> None:
    spec = make_spec(max_samples=5, seed=9)
    other = open_store(str(tmp_path / "other"))
    plans = [plan_run(spec, make_samples(64), at) for at in (store, other, store)]
    assert plans[0] == plans[1] == plans[2]
    for key in (samples_key(spec.run_id), index_key(spec.run_id)):
        assert store.get(key) == other.get(key)


def test_incomplete_plan_is_replaced(store: Store) -> None:
    spec = make_spec(max_samples=5)
    store.put(samples_key(spec.run_id), b"half a pl")
    store.put(index_key(spec.run_id), b"of another version")
    plan, index = plan_samples(store, make_samples(12), spec)
    assert [len(read_chunk(store, chunk)) for chunk in index] == [5, 5, 2]
    assert read_run(store, spec.run_id)[1] == plan


def test_run_record_is_written_last_and_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    existing = []
    put_new = Store.put_new

    def record_existing(self: Store, key: str, content: bytes) -> bool:
        existing.append({name: self.exists(name) for name in (samples_key(spec.run_id), index_key(spec.run_id), key)})
        return put_new(self, key, content)

    monkeypatch.setattr(Store, "put_new", record_existing)
    plan_run(spec, make_samples(3), store)
    record = store.get(run_key(spec.run_id))
    plan_run(spec, make_samples(3), store)
    assert existing[0] == {samples_key(spec.run_id): True, index_key(spec.run_id): True, run_key(spec.run_id): False}
    assert store.get(run_key(spec.run_id)) == record


def test_empty_run_is_rejected_and_not_stored(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"nothing to run: no rows in one\.jsonl, two\.jsonl"):
        plan_run(make_spec("one", "two"), [], store)
    assert list(store.list_keys()) == []


def test_failed_reader_does_not_store_objects(store: Store) -> None:
    def break_off() -> Iterator[Sample]:
        yield from make_samples(10)
        raise SampleError("bad_row", "the disk failed")

    with pytest.raises(SampleError, match="the disk failed"):
        plan_run(make_spec(), break_off(), store)
    assert list(store.list_keys()) == []


def test_dry_run_counts_equal_the_plan(store: Store) -> None:
    samples = [*make_samples(30, dataset="one"), *make_samples(8, dataset="one"), *make_samples(9, dataset="two")]
    spec = make_spec("one", "two", max_samples=4)
    described = describe_plan(spec, samples)
    plan = plan_run(spec, samples, store)
    assert described["run_id"] == plan.run_id == f"echo-{described['digest'][:12]}"
    assert (described["samples"], described["chunks"], described["faults"]) == (plan.samples, plan.chunks, 0) == (39, 10, 0)
    assert described["datasets"] == [counts.model_dump() for counts in plan.datasets]
    assert json.loads(json.dumps(described))["spec"]["chunks"]["max_samples"] == 4


def test_memory_is_independent_of_sample_count(store: Store) -> None:
    """Plan 20 000 more samples of 0.6 KB (12 MB). Only the index (14 KB) and one bucket (1/256 of the samples) grow.

    Both plans fill the store writer's buffer of 8 MiB. The writer may exceed the buffer by one write.
    """
    plan_run(make_spec(seed=1), make_samples(10), store)  # load imports and fill caches
    small, large = (measure_peak_bytes(store, count) for count in (20_000, 40_000))
    assert large - small < 2 * 2**20
    assert large < 12 * 2**20


def test_memory_holds_few_embedded_images(store: Store) -> None:
    """Plan 64 MiB of images in one group, so that one bucket and one chunk contain all of them."""
    plan_run(make_spec(seed=1), make_samples(10), store)
    image = Media(data="A" * 2**19)
    samples = (make_sample(number, group="one", media=(image,)) for number in range(128))
    assert measure_peak_bytes(store, 128, samples) < 32 * 2**20  # three write buffers of 8 MiB take most of it


def measure_peak_bytes(store: Store, count: int, samples: Iterable[Sample] | None = None) -> int:
    samples = samples or [make_cheap_sample(number) for number in range(count)]
    tracemalloc.start()
    try:
        plan = plan_run(make_spec(max_samples=64, seed=count), samples, store)
        assert plan.samples == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def make_cheap_sample(number: int) -> Sample:
    question = "What is shown? " * 32
    fields: dict[str, Any] = {"sample_id": f"{number:032x}", "dataset": "rows", "index": str(number), "question": question}
    fields["request_digest"] = fields["sample_id"]
    return Sample.model_construct(**fields)


def test_index_of_one_chunk_is_read_back(store: Store) -> None:
    spec = make_spec()
    plan_run(spec, make_samples(1), store)
    [chunk] = read_index(store, spec.run_id)
    assert (chunk.count, chunk.datasets) == (1, (1,))
