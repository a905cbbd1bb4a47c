"""The samples that engines were asked, and those that no crash may repeat. Engines record sample ids in the file ``asked``."""

from collections import Counter
from typing import Any

from common.ledger.keys import journal_key
from common.storage.keys import parse_part_key, parts_prefix
from common.storage.plan_index import read_index, read_part
from tests.support.fleet import Fleet


def read_asked(fleet: Fleet) -> Counter[str]:
    """Return how often each sample was asked."""
    path = fleet.folder / "asked"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def count_asked_again(fleet: Fleet) -> int:
    """Return how many questions were asked beyond the first of each sample."""
    asked = read_asked(fleet)
    return asked.total() - len(asked)


def find_stored(fleet: Fleet, run_id: str) -> set[str]:
    """Return the samples that are in a journal or in a part."""
    client: Any = fleet.ledger.client
    # Journals first: an outcome that leaves its journal meanwhile is in a part by then.
    journals = [key for key in client.scan_iter(match=journal_key(run_id, "*"), count=1000) if not key.endswith(b":trial")]
    journaled = {sample_id.decode() for key in journals for sample_id in client.hkeys(key)}
    index = read_index(fleet.store, run_id)
    numbers = [parse_part_key(key)[1] for key in fleet.store.list_keys(parts_prefix(run_id))]
    parts = [read_part(fleet.store, index[number]) for number in numbers]
    return journaled | {outcome.sample_id for part in parts if part for outcome in part.outcomes}


def read_stored_counts(fleet: Fleet, run_id: str) -> dict[str, int]:
    """Return how often each sample that is stored by now has been asked. It must never be asked again."""
    stored = find_stored(fleet, run_id)
    asked = read_asked(fleet)
    return {sample_id: asked[sample_id] for sample_id in stored}


def assert_not_asked_again(fleet: Fleet, stored: dict[str, int]) -> None:
    """Assert that no stored sample was asked again; ``stored`` is a result of ``read_stored_counts``."""
    asked = read_asked(fleet)
    assert {sample_id: asked[sample_id] for sample_id in stored} == stored
