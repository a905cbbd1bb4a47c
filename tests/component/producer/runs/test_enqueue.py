"""After enqueue, every chunk of a run is done or queued, from any earlier state and with concurrent producers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import redis

from common.broker.app import make_app
from common.broker.queues import queue_name
from common.errors import ConfigError, IntegrityError
from common.ledger.ledger import Ledger
from common.records import Sample
from common.storage.keys import part_key
from common.storage.run_record import load_planned_run
from producer.runs.control import resume_run
from producer.runs.enqueue import Enqueued, enqueue_run
from producer.runs.rebuild import commit_parts
from tests.support.fleet import Fleet, make_rows
from tests.support.ledger import lose_answers
from tests.support.planning import make_samples, make_spec, put_part, read_rung, run_chunks
from tests.support.soundness import assert_run_is_sound


@pytest.fixture
def client(fleet: Fleet) -> Iterator[redis.Redis]:
    with fleet.ledger.client as client:
        yield client


@pytest.fixture
def spec_path(fleet: Fleet) -> Path:
    """Return a spec of 40 samples in 5 chunks."""
    fleet.write_profile("quick")
    return fleet.write_spec("quick", [fleet.write_dataset("rows", make_rows(40))], chunks={"max_samples": 8})


def take_rung(client: redis.Redis) -> list[int]:
    """Return the chunks with a message in the queue, and empty the queue."""
    rung = read_rung(client, "quick")
    client.delete(queue_name("quick"))
    return rung


def resume(fleet: Fleet, run_id: str, *, rebuild: bool = False) -> int:
    return resume_run(run_id, fleet.store, fleet.ledger, make_app(fleet.settings), rebuild=rebuild).rung


def test_new_run_is_planned_opened_and_queued(fleet: Fleet, client: redis.Redis, spec_path: Path) -> None:
    enqueued = fleet.enqueue(spec_path)
    assert (enqueued.planned, enqueued.opened, enqueued.rung, enqueued.workers) == (True, True, 5, 0)
    assert (enqueued.plan.samples, enqueued.plan.chunks) == (40, 5)
    assert take_rung(client) == [0, 1, 2, 3, 4]


def test_repeated_enqueue_queues_only_missing_chunks(fleet: Fleet, client: redis.Redis, spec_path: Path) -> None:
    run_id = fleet.enqueue(spec_path).run_id
    run_chunks(fleet, "quick", run_id, [1, 3])
    take_rung(client)
    again = fleet.enqueue(spec_path)
    assert (again.run_id, again.planned, again.opened, again.rung) == (run_id, False, False, 3)
    assert take_rung(client) == [0, 2, 4]


def test_leased_chunk_is_not_queued(fleet: Fleet, client: redis.Redis, spec_path: Path) -> None:
    run_id = fleet.enqueue(spec_path).run_id
    take_rung(client)
    assert fleet.ledger.acquire(run_id, 2, "gpu0@test") is not None
    assert fleet.enqueue(spec_path).rung == 4
    assert take_rung(client) == [0, 1, 3, 4]


def test_done_run_is_neither_queued_nor_read(fleet: Fleet, client: redis.Redis) -> None:
    spec = make_spec(max_samples=8)
    fleet.write_profile("echo", weights=None)
    app = make_app(fleet.settings)
    run_id = enqueue_run(spec, make_samples(20), fleet.store, fleet.ledger, app).run_id
    run_chunks(fleet, "echo", run_id)
    client.delete(queue_name("echo"))

    read = []

    def read_again() -> Iterator[Sample]:
        read.append("again")
        yield from make_samples(20)

    again = enqueue_run(spec, read_again(), fleet.store, fleet.ledger, app)
    assert (again.planned, again.opened, again.rung) == (False, False, 0)
    assert (read, read_rung(client, "echo")) == ([], [])
    assert_run_is_sound(fleet, run_id)


def test_lost_ledger_is_rebuilt_from_parts(fleet: Fleet, client: redis.Redis, spec_path: Path) -> None:
    run_id = fleet.enqueue(spec_path).run_id
    run_chunks(fleet, "quick", run_id, [0, 4])
    client.flushall()
    again = fleet.enqueue(spec_path)
    assert (again.planned, again.opened, again.rung) == (False, True, 3)
    assert take_rung(client) == [1, 2, 3]
    assert fleet.status(run_id).samples.ok == 16
    run_chunks(fleet, "quick", run_id)
    assert_run_is_sound(fleet, run_id)


def test_done_run_is_restored_after_ledger_loss(fleet: Fleet, client: redis.Redis, spec_path: Path) -> None:
    run_id = fleet.enqueue(spec_path).run_id
    run_chunks(fleet, "quick", run_id)
    before = client.get(f"fleet:{{{run_id}}}:states")
    client.flushall()
    assert fleet.enqueue(spec_path).rung == 0
    assert client.get(f"fleet:{{{run_id}}}:states") == before
    assert_run_is_sound(fleet, run_id)


def test_repeated_commit_of_parts_is_idempotent(fleet: Fleet, spec_path: Path) -> None:
    enqueued = fleet.enqueue(spec_path)
    run = load_planned_run(fleet.store, enqueued.run_id)
    for chunk in run.index:
        put_part(fleet.store, chunk, statuses=("ok", "invalid", "failed"))
    ledger = fleet.ledger
    seen = []
    for _ in range(3):
        assert commit_parts(run, fleet.store, ledger) == 5
        view = ledger.view_run(enqueued.run_id)
        assert view is not None
        seen.append((view.state, view.chunks_done, view.counts))
    assert seen == [("done", 5, {(0, "ok"): 15, (0, "invalid"): 15, (0, "failed"): 10})] * 3


def test_concurrent_producers_make_one_complete_run(fleet: Fleet, client: redis.Redis, spec_path: Path) -> None:
    together = Barrier(4)

    def enqueue(_: int) -> Enqueued:
        together.wait()
        return fleet.enqueue(spec_path)

    with ThreadPoolExecutor(4) as pool:
        enqueued = list(pool.map(enqueue, range(4)))
    assert len({one.run_id for one in enqueued}) == 1
    assert {one.plan.samples for one in enqueued} == {40}
    assert [one.opened for one in enqueued].count(True) == 1
    assert set(take_rung(client)) == {0, 1, 2, 3, 4}
    run_id = enqueued[0].run_id
    run_chunks(fleet, "quick", run_id)
    assert len(assert_run_is_sound(fleet, run_id)) == 40


def test_resume_queues_missing_chunks_and_continues_run(fleet: Fleet, client: redis.Redis, spec_path: Path) -> None:
    run_id = fleet.enqueue(spec_path).run_id
    run_chunks(fleet, "quick", run_id, [0])
    fleet.ledger.pause_run(run_id, "part 3 is damaged")
    take_rung(client)
    assert resume(fleet, run_id) == 4
    assert take_rung(client) == [1, 2, 3, 4]
    assert fleet.status(run_id).state == "running"
    assert fleet.status(run_id).reason is None


def test_rebuild_replaces_wrong_counts_and_leases(fleet: Fleet, client: redis.Redis, spec_path: Path) -> None:
    run_id = fleet.enqueue(spec_path).run_id
    run_chunks(fleet, "quick", run_id, [0])
    ledger = fleet.ledger
    ledger.acquire(run_id, 1, "gone@test")
    client.hset(f"fleet:{{{run_id}}}:counts", "0:3", 999)
    assert resume(fleet, run_id, rebuild=True) == 4
    samples = fleet.status(run_id).samples
    assert (samples.ok, samples.in_flight, samples.unprocessed) == (8, 0, 32)


def test_rebuild_survives_a_lost_redis_answer(
    fleet: Fleet, client: redis.Redis, spec_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = fleet.enqueue(spec_path).run_id
    run_chunks(fleet, "quick", run_id)
    lose_answers(monkeypatch, "open")
    assert resume(fleet, run_id, rebuild=True) == 0
    status = fleet.status(run_id)
    assert (status.state, status.samples.ok) == ("done", 40)
    assert_run_is_sound(fleet, run_id)


def test_rebuild_of_unknown_run_does_not_change_redis(fleet: Fleet, client: redis.Redis, spec_path: Path) -> None:
    """A wrong ``FLEET_STORE_URL`` must not delete the Redis state of a run that is active in another store."""
    run_id = fleet.enqueue(spec_path).run_id
    wrong = Fleet(fleet.folder, fleet.server, fleet.settings.model_copy(update={"store_url": f"file://{fleet.folder}/wrong"}))
    with pytest.raises(ConfigError, match=f"no run '{run_id}'"):
        resume(wrong, run_id, rebuild=True)
    assert fleet.status(run_id).samples.unprocessed == 40


def test_damaged_part_stops_rebuild_and_is_named(fleet: Fleet, client: redis.Redis, spec_path: Path) -> None:
    run_id = fleet.enqueue(spec_path).run_id
    run_chunks(fleet, "quick", run_id, [0, 1])
    fleet.store.put(part_key(run_id, 1, 1), b"PAR1 nothing")
    client.flushall()
    with pytest.raises(IntegrityError, match=f"run {run_id}, chunk 1"):
        fleet.enqueue(spec_path)


def test_enqueue_lists_run_of_dead_producer(fleet: Fleet, client: redis.Redis, spec_path: Path) -> None:
    """The producer died after it opened the run and before it added the run to the list."""
    run_id = fleet.enqueue(spec_path).run_id
    client.delete("fleet:runs:quick")
    fleet.enqueue(spec_path)
    assert Ledger(client, fleet.settings).list_runs("quick") == [run_id]
