"""Status: states always add up, and rates are correct although the ledger keeps few commits."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.ledger.connection import connect_redis
from common.ledger.ledger import Commit, Ledger, LedgerView
from common.ledger.worker_registry import WorkerRecord, announce_worker
from common.records import Lease, Plan, RunState
from common.settings import Settings
from common.storage.plan_index import ChunkIndex, read_part
from common.storage.run_record import PlannedRun
from common.storage.store import Store, open_store
from producer.runs.rebuild import commit_parts
from producer.runs.status import RunStatus, SampleCounts, measure_rate, prepare_status, read_status
from tests.support.planning import make_sample, make_spec, plan_samples, put_part

SPEC = make_spec("one", "two", max_samples=8)
RUN = SPEC.run_id
KEPT = 128  # commits; see ledger.lua


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    chosen = Settings(redis_url=redis_url, lease_s=30)
    with connect_redis(chosen) as client:
        yield Ledger(client, chosen)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


@pytest.fixture
def planned(store: Store, ledger: Ledger) -> tuple[Plan, ChunkIndex]:
    """Plan and open a run of 60 + 20 samples and 5 duplicates, in 10 chunks."""
    samples = [
        *(make_sample(number, dataset="one") for number in range(60)),
        *(make_sample(number % 20, dataset="two") for number in range(25)),
    ]
    plan, index = plan_samples(store, samples, SPEC)
    ledger.open_run(plan, "echo")
    return plan, index


def assert_adds_up(status: RunStatus) -> None:
    for counts in (status.samples, *status.datasets.values()):
        assert counts.rows == counts.unique + counts.duplicates
        assert counts.ok + counts.invalid + counts.failed + counts.in_flight + counts.unprocessed == counts.unique
        assert min(counts.model_dump().values()) >= 0
    for field in SampleCounts.model_fields:
        assert getattr(status.samples, field) == sum(getattr(counts, field) for counts in status.datasets.values())


def acquire(ledger: Ledger, chunk: int) -> Lease:
    lease = ledger.acquire(RUN, chunk, "gpu0@test")
    assert lease is not None
    return lease


def test_states_add_up_throughout_a_run(store: Store, ledger: Ledger, planned: tuple[Plan, ChunkIndex]) -> None:
    plan, index = planned
    read_again = prepare_status(RUN, store, ledger)
    assert read_again().samples == SampleCounts(rows=85, unique=80, duplicates=5, unprocessed=80)
    for number, chunk in enumerate(index):
        acquire(ledger, number)
        held = read_again()
        assert_adds_up(held)
        assert held.samples.in_flight == 8
        assert [counts.in_flight for counts in held.datasets.values()] == list(chunk.datasets)
        put_part(store, chunk, statuses=("ok", "invalid", "failed", "ok"))
        assert read_again().samples.in_flight == 8
        commit_parts(PlannedRun(SPEC, plan, index), store, ledger)
        assert_adds_up(read_again())
        assert read_again().samples.unprocessed == 80 - 8 * (number + 1)
    ended = read_again()
    assert (ended.state, ended.eta_s) == ("done", 0.0)
    assert (ended.samples.ok, ended.samples.invalid, ended.samples.failed) == (40, 20, 20)
    assert not ended.all_ok


def test_counts_are_separate_for_each_dataset(store: Store, ledger: Ledger, planned: tuple[Plan, ChunkIndex]) -> None:
    datasets = read_status(RUN, store, ledger).datasets
    assert datasets["one"] == SampleCounts(rows=60, unique=60, duplicates=0, unprocessed=60)
    assert datasets["two"] == SampleCounts(rows=25, unique=20, duplicates=5, unprocessed=20)


def test_released_chunk_is_unprocessed_again(store: Store, ledger: Ledger, planned: tuple[Plan, ChunkIndex]) -> None:
    lease = acquire(ledger, 3)
    assert read_status(RUN, store, ledger).samples.in_flight == 8
    ledger.release(lease)
    status = read_status(RUN, store, ledger)
    assert_adds_up(status)
    assert status.samples.unprocessed == 80


def test_status_includes_workers_and_pause_reason(store: Store, ledger: Ledger, planned: tuple[Plan, ChunkIndex]) -> None:
    for model in ("echo", "other"):
        record = WorkerRecord(worker=f"gpu0@{model}", model=model, device="gpu0", pid=1, state="ready", holds=((RUN, 2),))
        announce_worker(ledger.client, record.model_copy(update={"samples_per_s": 8.5, "tokens_per_s": 68.0}), ttl_s=30)
    ledger.pause_run(RUN, "part 3 is damaged")
    status = read_status(RUN, store, ledger)
    (worker,) = json.loads(status.model_dump_json())["workers"]
    shown = [worker[name] for name in ("worker", "device", "holds", "samples_per_s", "tokens_per_s")]
    assert shown == ["gpu0@echo", "gpu0", [[RUN, 2]], 8.5, 68.0]
    assert (status.state, status.reason) == ("paused", "part 3 is damaged")


def test_plan_is_read_once_for_many_statuses(
    store: Store, ledger: Ledger, planned: tuple[Plan, ChunkIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_again = prepare_status(RUN, store, ledger)
    monkeypatch.setattr(Store, "get", None)  # any access fails
    acquire(ledger, 0)
    assert [read_again().samples.in_flight for _ in range(3)] == [8, 8, 8]


def test_unknown_and_lost_runs_give_different_errors(store: Store, ledger: Ledger, planned: tuple[Plan, ChunkIndex]) -> None:
    with pytest.raises(ConfigError, match="no run 'tiny-0' in"):
        read_status("tiny-0", store, ledger)
    ledger.client.flushall()
    with pytest.raises(ConfigError, match=f"Redis has no record of run {RUN}.*producer resume {RUN} --rebuild"):
        read_status(RUN, store, ledger)


# Rates


def make_view(commits: list[Commit], *, done: int | None = None, state: str = "running", now_s: float = 1060.0) -> LedgerView:
    """Return a run opened at 1000 s with these commits, newest first. The ledger keeps the last 128."""
    return LedgerView(
        model="tiny",
        state=RunState(state),
        reason="",
        samples=10**6,
        chunks=10**5,
        chunks_done=len(commits) if done is None else done,
        started_s=1000.0,
        changed_s=commits[0].at_s if commits else 1000.0,
        now_s=now_s,
        counts={},
        holders={},
        progress=commits[:KEPT],
    )


def commit_steadily(per_s: float, *, until_s: float = 1060.0, since_s: float = 1000.0) -> list[Commit]:
    """Return commits of 64 samples and 640 tokens each, newest first."""
    count = int((until_s - since_s) * per_s)
    return [Commit(until_s - number / per_s, 64, 640) for number in range(count)]


@pytest.mark.parametrize("per_s", [0.5, 1, 4, 10, 200, 5000])
def test_steady_rate_is_measured_from_few_commits(per_s: float) -> None:
    samples_per_s, tokens_per_s = measure_rate(make_view(commit_steadily(per_s)))
    assert samples_per_s == pytest.approx(64 * per_s, rel=0.1)
    assert tokens_per_s == pytest.approx(640 * per_s, rel=0.1)


@pytest.mark.parametrize("per_s", [0.5, 2, 200])
def test_done_run_keeps_its_rate(per_s: float) -> None:
    commits = commit_steadily(per_s)
    rates = [measure_rate(make_view(commits, state="done", now_s=now_s)) for now_s in (1060.0, 9999.0)]
    assert rates[0] == rates[1]
    assert rates[0][0] == pytest.approx(64 * per_s, rel=0.1)


def test_rate_covers_only_the_last_thirty_seconds() -> None:
    """A period without commits lowers the rate."""
    fast_then_slow = [*commit_steadily(0.5, since_s=1030.0), *commit_steadily(4, until_s=1029.0)]
    assert measure_rate(make_view(fast_then_slow))[0] == pytest.approx(32, rel=0.1)
    assert measure_rate(make_view(commit_steadily(200, until_s=1030.0), now_s=1045.0))[0] < 64 * 200 / 10
    assert measure_rate(make_view(commit_steadily(200, until_s=1020.0)))[0] == 0.0


def test_rate_of_new_run_starts_at_opening() -> None:
    assert measure_rate(make_view([Commit(1004.0, 64, 640)], now_s=1004.0)) == (16.0, 160.0)
    assert measure_rate(make_view([], now_s=1000.0)) == (0.0, 0.0)


times = st.lists(st.floats(1000, 1060), max_size=200)


@given(at_s=times, dropped=st.integers(0, 500), state=st.sampled_from(["running", "paused", "done", "cancelled"]))
def test_rate_is_never_negative_or_unrealistic(at_s: list[float], dropped: int, state: str) -> None:
    commits = [Commit(moment, 64, 640) for moment in sorted(at_s, reverse=True)]
    samples_per_s, _ = measure_rate(make_view(commits, done=len(commits) + dropped, state=state))
    assert 0 <= samples_per_s <= 64 * KEPT / 1e-3


def test_eta_is_remaining_samples_divided_by_rate(store: Store, ledger: Ledger, planned: tuple[Plan, ChunkIndex]) -> None:
    """The ETA is None while the rate is 0."""
    plan, index = planned
    assert read_status(RUN, store, ledger).eta_s is None
    for number in (0, 1):
        acquire(ledger, number)
        put_part(store, index[number])
        part = read_part(store, index[number])
        assert part is not None
        ledger.commit(index[number], part, plan.dataset_numbers)
    acquire(ledger, 2)
    status = read_status(RUN, store, ledger)
    assert status.samples_per_s > 0
    assert status.tokens_per_s == pytest.approx(3 * status.samples_per_s)
    assert status.eta_s == pytest.approx(64 / status.samples_per_s)


def test_rebuild_does_not_count_as_progress(store: Store, ledger: Ledger, planned: tuple[Plan, ChunkIndex]) -> None:
    plan, index = planned
    for number in (0, 1):
        put_part(store, index[number])
    assert commit_parts(PlannedRun(SPEC, plan, index), store, ledger) == 2
    status = read_status(RUN, store, ledger)
    assert (status.samples_per_s, status.eta_s) == (0.0, None)
