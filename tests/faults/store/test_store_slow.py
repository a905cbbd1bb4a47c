"""A slow store, and a store behind an unreliable network.

Leases are kept during a slow write, and the run completes with correct results.
"""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.storage.keys import parts_prefix
from tests.support.faults.faulty_s3 import FaultyS3, answer, cut_answer, delay, faulty_s3, lose_answer, lose_request
from tests.support.fleet import Fleet, make_rows, start_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["faulty_s3"]  # a fixture

LEASE_S = 4
FAULTS = {
    "slow": delay(0.1),
    "cut": cut_answer,
    "lost request": lose_request,
    "lost answer": lose_answer,
    "slow down": answer(503, "SlowDown"),
    "error": answer(500, "InternalError"),
}


@pytest.fixture
def s3_fleet(faulty_s3: FaultyS3, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    with start_fleet(tmp_path, monkeypatch, store_url=s3_url, lease_s=LEASE_S, renew_s=0.3, janitor_s=0.3) as fleet:
        options = {"delay_s": 0.05, "asked": str(fleet.folder / "asked")}
        fleet.write_profile("recording", engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
        yield fleet


def test_slow_part_writes_do_not_lose_leases(s3_fleet: Fleet, faulty_s3: FaultyS3) -> None:
    run_id = enqueue_rows(s3_fleet, "recording", make_rows(60), chunk=10)
    faulty_s3.inject(delay(2 * LEASE_S), f"^PUT .*{parts_prefix(run_id)}", times=4)
    for _ in range(2):
        s3_fleet.start_workers("recording", chunks_in_flight=2)
    wait_until(lambda: len(faulty_s3.faulted) >= 4, "four slow writes")
    assert s3_fleet.wait_for_end(run_id).samples.ok == 60
    assert_run_is_sound(s3_fleet, run_id)
    assert set(Counter((s3_fleet.folder / "asked").read_text().split()).values()) == {1}
    assert len(set(faulty_s3.faulted)) == 4, "a second worker must not run a chunk whose part is being written"
    assert "lease.lost" not in s3_fleet.read_log()


@pytest.mark.parametrize("seed", range(2))
def test_unreliable_network_does_not_repeat_samples(s3_fleet: Fleet, faulty_s3: FaultyS3, seed: int) -> None:
    chosen = random.Random(seed)
    run_id = enqueue_rows(s3_fleet, "recording", make_rows(200), chunk=10)

    def inject_random_fault() -> None:
        faulty_s3.inject(FAULTS[chosen.choice(sorted(FAULTS))], chosen.choice(["^GET ", "^HEAD ", "^PUT ", "parts/"]), times=1)

    for _ in range(20):
        inject_random_fault()
    s3_fleet.start_workers("recording", chunks_in_flight=2)
    wait_until(lambda: len(list(s3_fleet.store.list_keys(parts_prefix(run_id)))) >= 8, "eight parts")
    for _ in range(20):
        inject_random_fault()
    assert s3_fleet.wait_for_end(run_id).samples.ok == 200
    faulty_s3.clear_faults()
    assert_run_is_sound(s3_fleet, run_id)
    assert set(Counter((s3_fleet.folder / "asked").read_text().split()).values()) == {1}
    assert len(faulty_s3.faulted) >= 20
