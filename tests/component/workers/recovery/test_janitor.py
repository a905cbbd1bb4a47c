"""The janitor: messages of lost chunks are sent again, by one worker at a time, and only if needed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import Celery

from common.broker.app import count_waiting, make_app, ring
from common.broker.queues import queue_name
from common.ledger.connection import connect_redis
from common.ledger.ledger import Ledger
from common.records import Plan
from common.settings import Settings
from common.storage.plan_index import ChunkIndex
from common.storage.store import open_store
from tests.support.planning import make_samples, make_spec, plan_samples
from tests.support.waiting import wait_until
from workers.recovery.janitor import Janitor
from workers.recovery.takeover import Takeovers


class RecordedTakeovers(Takeovers):
    """Takeovers that only record their chunks, with a fixed ``room``."""

    def __init__(self, ledger: Ledger, room: int = 2) -> None:
        super().__init__(ledger, lambda *_: "", room)
        self.taken: list[tuple[str, int]] = []

    def begin(self, run_id: str, chunk: int) -> None:
        self.taken.append((run_id, chunk))


class Swept(NamedTuple):
    app: Celery
    ledger: Ledger
    settings: Settings
    takeovers: RecordedTakeovers
    known: dict[str, ChunkIndex]

    def open_run(self, run_id: str, chunks: int) -> None:
        self.ledger.open_run(Plan(run_id=run_id, samples=chunks, chunks=chunks, datasets=()), "tiny")

    def make_janitor(self, model: str = "tiny") -> Janitor:
        return Janitor(self.app, self.ledger, self.takeovers, self.known.get, model, self.settings.janitor_s)

    def sweep(self) -> int:
        """Wait until no other janitor has the turn, and sweep."""
        wait_until(lambda: not self.ledger.client.exists("fleet:janitor:tiny"), "the end of another janitor's turn")
        return self.make_janitor().sweep()

    @property
    def taken(self) -> list[tuple[str, int]]:
        return self.takeovers.taken

    @property
    def waiting(self) -> int:
        return count_waiting(self.ledger.client, "tiny")

    def empty_queue(self) -> None:
        self.ledger.client.delete(queue_name("tiny"))


@pytest.fixture
def swept(redis_url: str) -> Iterator[Swept]:
    chosen = Settings(redis_url=redis_url, lease_s=0.05, renew_s=0.01, janitor_s=0.01)
    with connect_redis(chosen) as client:
        ledger = Ledger(client, chosen)
        yield Swept(make_app(chosen), ledger, chosen, RecordedTakeovers(ledger), {})


def test_pending_chunks_are_enqueued_when_queue_is_empty(swept: Swept) -> None:
    swept.open_run("tiny-1", 3)
    assert swept.sweep() == 3
    assert swept.waiting == 3
    assert swept.sweep() == 0, "a queue with messages is not evidence of a lost message"
    swept.empty_queue()
    assert swept.sweep() == 3


@pytest.mark.parametrize("known", [True, False])
def test_messages_are_described_if_plan_was_read(swept: Swept, tmp_path: Path, known: bool) -> None:
    plan, index = plan_samples(open_store(str(tmp_path)), make_samples(20), make_spec(max_samples=8))
    swept.ledger.open_run(plan, "tiny")
    if known:
        swept.known[plan.run_id] = index
    assert swept.sweep() == 3
    messages: Any = swept.ledger.client.lrange(queue_name("tiny"), 0, -1)
    shown = [json.loads(message)["headers"]["argsrepr"] for message in reversed(messages)]
    counts = [" · 8 samples", " · 8 samples", " · 4 samples"] if known else ["", "", ""]
    assert shown == [f"tiny · {plan.run_id} · chunk {number}{count}" for number, count in enumerate(counts)]


def test_expired_chunk_is_taken_over_without_the_queue(swept: Swept) -> None:
    swept.open_run("tiny-1", 3)
    ring(swept.app, "tiny", "tiny-1", [0, 2])
    assert swept.ledger.acquire("tiny-1", 1, "dead@worker")
    # This janitor's leases are longer than the test, because the ledger offers a chunk again after one lease.
    patient = swept._replace(ledger=Ledger(swept.ledger.client, swept.settings.model_copy(update={"lease_s": 600.0})))
    assert wait_until(patient.sweep, "the lease to expire") == 1
    assert patient.taken == [("tiny-1", 1)]
    assert patient.waiting == 2
    assert patient.sweep() == 0


def test_janitor_without_room_releases_the_turn(swept: Swept) -> None:
    swept.open_run("tiny-1", 5)
    ring(swept.app, "tiny", "tiny-1", [4])
    leases = [swept.ledger.acquire("tiny-1", chunk, "dead@worker") for chunk in range(4)]
    assert all(lease and swept.ledger.release(lease) for lease in leases)
    full = swept._replace(
        takeovers=RecordedTakeovers(swept.ledger, room=0), settings=swept.settings.model_copy(update={"janitor_s": 60.0})
    )
    assert full.sweep() == 0
    assert swept.sweep() == 2, "a janitor without room must release the turn immediately"
    assert swept.sweep() == 2
    assert sorted(chunk for _, chunk in swept.taken) == [0, 1, 2, 3]
    assert swept.waiting == 1


def test_one_worker_per_model_sweeps(swept: Swept) -> None:
    patient = swept._replace(settings=swept.settings.model_copy(update={"janitor_s": 60.0}))
    swept.open_run("tiny-1", 3)
    assert patient.sweep() == 3
    patient.empty_queue()
    assert swept.make_janitor().sweep() == 0, "another worker has just swept"
    assert swept.make_janitor("other").sweep() == 0, "another model has its own turn and does not have runs"
    assert swept.ledger.client.pttl("fleet:janitor:tiny") > 0, "a janitor that dies must not keep the turn"


def test_paused_run_is_skipped_without_blocking_others(swept: Swept) -> None:
    swept.open_run("tiny-1", 3)
    swept.open_run("tiny-2", 2)
    swept.open_run("tiny-3", 2)
    swept.ledger.pause_run("tiny-1", "look at this")
    assert swept.sweep() == 4
    swept.empty_queue()
    swept.ledger.continue_run("tiny-1")
    assert swept.sweep() == 7
