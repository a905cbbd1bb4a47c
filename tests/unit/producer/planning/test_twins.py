"""Many rows with the same request: the plan's lines stay short, memory stays bounded, and each row is in the results."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.records import Plan, Sample, Twin
from common.spec.models import RunSpec
from common.storage.keys import run_key, twins_key
from common.storage.plan_index import read_index
from common.storage.run_record import encode_run, read_run
from common.storage.store import Store, open_store
from producer.planning import twins
from producer.planning.plan import plan_run
from producer.results.collect import collect_rows
from producer.runs.enqueue import find_planned_run
from tests.support.planning import make_sample, make_spec, put_part


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def repeat_row(count: int) -> Iterator[Sample]:
    row = make_sample(0, request_digest="same", metadata={"note": "x" * 50})
    return (row.model_copy(update={"row": number, "index": str(number)}) for number in range(count))


@pytest.mark.slow
def test_request_of_many_rows_has_a_short_line(store: Store) -> None:
    spec, count = make_spec(), 200_000
    plan = plan_run(spec, repeat_row(count), store)
    (counts,) = plan.datasets
    assert (counts.rows, counts.unique, counts.duplicates) == (count, 1, count - 1)
    (chunk,) = read_index(store, spec.run_id)
    assert chunk.length < 1000
    put_part(store, chunk)
    found = [int(outcome.index) for outcome in collect_rows(spec.run_id, store) if outcome.status == "ok"]
    assert found == list(range(count))


def test_memory_is_independent_of_twins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan and collect 12 000 more rows of one request, which have 1.4 MB of twins."""
    monkeypatch.setattr(twins, "_HELD_BYTES", 2**16)
    monkeypatch.setattr("common.storage.store._WRITE_BUFFER_BYTES", 2**16)
    monkeypatch.setattr("common.storage.twins._READ_BYTES", 2**16)
    measure_peak_bytes(store, 10)  # load imports and fill caches
    small, large = (measure_peak_bytes(store, count) for count in (4_000, 16_000))
    assert large - small < 2**19
    assert large < 8 * 2**20


def measure_peak_bytes(store: Store, count: int) -> int:
    """Plan and collect a run. Return the peak of its memory."""
    spec = make_spec(seed=count)
    tracemalloc.start()
    try:
        plan_run(spec, repeat_row(count), store)
        assert sum(1 for _ in collect_rows(spec.run_id, store)) == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_planning_twice_writes_the_same_twins(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "_HELD_BYTES", 500)  # several blocks for each sample
    spec, other = make_spec(max_samples=5), open_store(str(tmp_path / "other"))
    samples = [make_sample(number, row=number, request_digest=f"{number % 7}") for number in range(100)]
    plans = [plan_run(spec, samples, at) for at in (store, other, store)]
    assert plans[0] == plans[1] == plans[2]
    assert store.get(twins_key(spec.run_id)) == other.get(twins_key(spec.run_id))
    rows = list(collect_rows(spec.run_id, store))
    assert sorted(int(row.index) for row in rows) == list(range(100))
    assert len({(row.sample_id, int(row.index) % 7) for row in rows}) == 7


def test_plan_without_its_twins_is_planned_again(store: Store, tmp_path: Path) -> None:
    spec = make_spec()
    plan_run(spec, repeat_row(3), store)
    assert find_planned_run(store, spec.run_id) is not None
    (tmp_path / "store" / twins_key(spec.run_id)).unlink()
    assert find_planned_run(store, spec.run_id) is None


def test_plans_of_earlier_versions_are_collected(store: Store) -> None:
    """Their samples contain the twins, and their record does not name them."""
    spec = make_spec()
    sample = make_sample(0).model_copy(update={"twins": (Twin(row=1, index="1"), Twin(row=2, index="2"))})
    plan = plan_run(spec, [sample], store)
    forget_twins(store, spec, plan)
    assert [row.index for row in collect_rows(spec.run_id, store)] == ["0", "1", "2"]


def test_replaced_plan_of_an_earlier_version_names_its_twins(store: Store) -> None:
    """Enqueueing a damaged plan writes its samples again, now without twins."""
    spec = make_spec()
    plan = plan_run(spec, repeat_row(3), store)
    forget_twins(store, spec, plan)
    assert plan_run(spec, repeat_row(3), store) == plan
    assert read_run(store, spec.run_id) == (spec, plan)
    assert [row.index for row in collect_rows(spec.run_id, store)] == ["0", "1", "2"]


def forget_twins(store: Store, spec: RunSpec, plan: Plan) -> None:
    """Write the run record of an earlier version."""
    store.put(run_key(spec.run_id), encode_run(spec, plan.model_copy(update={"twins_bytes": None}), 0.0))
