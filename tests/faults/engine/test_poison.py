"""A sample that crashes the engine every time is identified. Only that sample fails, and the run continues."""

from collections import Counter

import pytest

from tests.support.engines.poison import assert_only_poison_failed, write_poisoned_profile
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

CHUNK_SAMPLES = 8
STALL_S = {"hangs": 4, "raises": 600, "exits": 600}


@pytest.mark.parametrize("how", ["raises", "exits", "hangs"])
def test_only_sample_that_crashes_the_engine_fails(clean_fleet: Fleet, how: str) -> None:
    fleet = clean_fleet
    write_poisoned_profile(fleet, how)
    poison = {"id": "poison", "question": "poison?", "target": "ok"}
    run_id = enqueue_rows(fleet, "poisoned", [*make_rows(39), poison], chunk=CHUNK_SAMPLES)
    fleet.start_workers("poisoned", chunks_in_flight=2, lease_s=2, engine_stall_s=STALL_S[how])
    fleet.wait_for_end(run_id)
    assert_only_poison_failed(fleet, run_id, {"poison"})
    asked = Counter((fleet.folder / "asked").read_text().split())
    # Two deaths quarantine the chunk. Then its samples run one by one, and two deaths identify the sample.
    deaths = 4
    assert fleet.read_log().count("worker.started") == deaths + 1
    controls = deaths - 2  # each engine in the quarantine answers a control first
    assert max(asked.values()) <= deaths + controls
    again = sum(times > 1 for times in asked.values())
    assert again <= 3 * CHUNK_SAMPLES + controls, "only samples in flight at the first two deaths may be sent again"
