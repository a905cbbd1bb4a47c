"""What engines were asked, and what no crash may make them be asked again.  Engines note each sample's id in the file ``asked``."""

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
    # Journals first: what leaves one while we look has its part by then.
    journals = [key for key in client.scan_iter(match=journal_key(run_id, "*"), count=1000) if not key.endswith(b":trial")]
    journaled = {sample_id.decode() for key in journals for sample_id in client.hkeys(key)}
    index = read_index(fleet.store, run_id)
    numbers = [parse_part_key(key)[1] for key in fleet.store.list_keys(parts_prefix(run_id))]
    parts = [read_part(fleet.store, index[number]) for number in numbers]
    return journaled | {outcome.sample_id for part in parts if part for outcome in part.outcomes}


def read_stored_counts(fleet: Fleet, run_id: str) -> dict[str, int]:
    """Return how often the samples that are stored by now have been asked: as often as they ever should be."""
    stored = find_stored(fleet, run_id)
    asked = read_asked(fleet)
    return {sample_id: asked[sample_id] for sample_id in stored}


def assert_not_asked_again(fleet: Fleet, stored: dict[str, int]) -> None:
    """Assert that nothing was asked again since it was stored."""
    asked = read_asked(fleet)
    assert {sample_id: asked[sample_id] for sample_id in stored} == stored
