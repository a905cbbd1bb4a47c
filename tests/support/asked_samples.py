"""The samples that engines received, and the samples that must not be repeated. Engines record ids in the file ``asked``."""

from collections import Counter
from typing import Any

from common.ledger.keys import journal_key
from common.storage.keys import parse_part_key, parts_prefix
from common.storage.plan_index import read_index, read_part
from tests.support.fleet import Fleet


def read_asked(fleet: Fleet) -> Counter[str]:
    """Return how often an engine received each sample."""
    path = fleet.folder / "asked"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def count_asked_again(fleet: Fleet) -> int:
    """Return how many requests repeated a sample."""
    asked = read_asked(fleet)
    return asked.total() - len(asked)


def find_stored(fleet: Fleet, run_id: str) -> set[str]:
    """Return the samples that are in a journal or in a part."""
    client: Any = fleet.ledger.client
    # Read the journals first, because an outcome is in its part before it leaves its journal.
    journals = [key for key in client.scan_iter(match=journal_key(run_id, "*"), count=1000) if not key.endswith(b":trial")]
    journaled = {sample_id.decode() for key in journals for sample_id in client.hkeys(key)}
    index = read_index(fleet.store, run_id)
    numbers = [parse_part_key(key)[1] for key in fleet.store.list_keys(parts_prefix(run_id))]
    parts = [read_part(fleet.store, index[number]) for number in numbers]
    return journaled | {outcome.sample_id for part in parts if part for outcome in part.outcomes}


def read_stored_counts(fleet: Fleet, run_id: str) -> dict[str, int]:
    """Return how often an engine received each stored sample. A stored sample must never be sent again."""
    stored = find_stored(fleet, run_id)
    asked = read_asked(fleet)
    return {sample_id: asked[sample_id] for sample_id in stored}


def assert_not_asked_again(fleet: Fleet, stored: dict[str, int]) -> None:
    """Assert that the samples in ``stored``, a result of ``read_stored_counts``, were not sent again."""
    asked = read_asked(fleet)
    assert {sample_id: asked[sample_id] for sample_id in stored} == stored
