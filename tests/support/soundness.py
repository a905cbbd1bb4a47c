"""The invariant that every integration and fault test checks at its end."""

from collections import Counter
from typing import Any

from common.ledger.keys import journal_key, run_keys
from common.records import STATE_BYTES, Outcome
from common.storage.keys import parse_part_key, parts_prefix
from common.storage.plan_index import read_index
from common.storage.run_record import read_run
from producer.results.collect import collect_outcomes
from tests.support.fleet import Fleet

# Keys without a TTL: Celery's queues and bindings exist as long as the fleet. ``list_runs`` prunes the set of open runs.
_WITHOUT_TTL = (b"_kombu.", b"unacked", b"fleet.", b"fleet:runs:")


def assert_run_is_sound(fleet: Fleet, run_id: str) -> list[Outcome]:
    """Assert that an ended run is complete and consistent, and return its outcomes.

    Each planned sample has exactly one outcome, every committed part verifies, ledger and store agree on every sample, no
    lease or journal remains, and every temporary key has a TTL.
    """
    outcomes = list(collect_outcomes(run_id, fleet.store))  # verifies every part against its chunk
    _, plan = read_run(fleet.store, run_id)
    index = read_index(fleet.store, run_id)
    assert len(outcomes) == plan.samples
    assert len({(outcome.dataset, outcome.sample_id) for outcome in outcomes}) == plan.samples
    assert {outcome.status for outcome in outcomes} <= {"ok", "invalid", "failed"}
    parts = sorted(parse_part_key(key) for key in fleet.store.list_keys(parts_prefix(run_id)))
    assert parts == [(chunk.wave, chunk.number) for chunk in index]
    _assert_ledger_agrees(fleet, run_id, outcomes, [counts.name for counts in plan.datasets])
    _assert_nothing_remains(fleet, run_id)
    return outcomes


def _assert_ledger_agrees(fleet: Fleet, run_id: str, outcomes: list[Outcome], datasets: list[str]) -> None:
    view = fleet.ledger.view_run(run_id)
    assert view is not None
    assert view.state == "done"
    assert view.chunks_done == view.chunks
    assert fleet.ledger.read_states(run_id) == bytes(STATE_BYTES[outcome.status] for outcome in outcomes)
    counted = Counter((datasets.index(outcome.dataset), outcome.status) for outcome in outcomes)
    assert {key: count for key, count in view.counts.items() if count} == counted
    samples = fleet.status(run_id).samples
    assert samples.rows == samples.unique + samples.duplicates
    assert samples.ok + samples.invalid + samples.failed + samples.in_flight + samples.unprocessed == samples.unique
    assert (samples.in_flight, samples.unprocessed) == (0, 0)


def _assert_nothing_remains(fleet: Fleet, run_id: str) -> None:
    client: Any = fleet.ledger.client
    keys = run_keys(run_id)
    assert client.zrange(keys.leases, 0, -1) == []
    assert client.hgetall(keys.holders) == {}
    assert list(client.scan_iter(match=journal_key(run_id, "*"))) == []
    permanent = [key for key in client.scan_iter(count=1000) if client.ttl(key) == -1 and not key.startswith(_WITHOUT_TTL)]
    assert permanent == []
