"""Redis is unreachable for longer than a lease, hangs, or rejects writes: samples in flight are kept, and the run continues."""

import re
import time
from pathlib import Path

import pytest

from tests.support.asked_samples import count_asked_again
from tests.support.faults.redis_faults import RECORDING, hanging_redis, read_only_redis, wait_for_parts, write_recording_profile
from tests.support.fleet import Fleet, make_rows, start_fleet
from tests.support.fleet_processes import clean_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

# After an outage, chunks are not taken over for the length of a lease. Within that time every worker must reconnect and renew
# its leases. It tries to reconnect once a second.
LEASE_S = 4
AWAY_S = 6


def wait_for_time(seconds: float) -> None:
    """Wait for the fixed length of a fault, because no event marks its end."""
    ends_at = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= ends_at, "the end of the fault", deadline_s=seconds + 10)


def assert_nothing_was_lost(fleet: Fleet, run_id: str, count: int, *, workers: int) -> None:
    """Assert that a run completed with correct results, without new workers, and that each sample was sent once."""
    assert fleet.wait_for_end(run_id).samples.ok == count
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) == 0
    log = fleet.read_log()
    assert log.count("worker.started") == workers, re.findall(r".*(?:worker.exited|Unrecoverable).*", log)


@pytest.mark.parametrize(
    ("lease", "away_s"),
    [
        pytest.param({"lease_s": LEASE_S, "renew_s": 0.2, "janitor_s": 0.2}, AWAY_S, id="short leases"),
        pytest.param({"lease_s": 10, "renew_s": 2.5, "janitor_s": 2}, 30, id="the defaults", marks=pytest.mark.timeout(240)),
    ],
)
def test_outage_longer_than_lease_does_not_lose_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lease: dict[str, float], away_s: float
) -> None:
    with start_fleet(tmp_path, monkeypatch, **lease) as fleet:
        write_recording_profile(fleet, delay_s=1)
        run_id = enqueue_rows(fleet, RECORDING, make_rows(160), chunk=8)
        for _ in range(2):
            fleet.start_workers(RECORDING, chunks_in_flight=2)
        fleet.wait_for_workers(RECORDING, 2)
        wait_for_parts(fleet, run_id, 3)
        fleet.server.kill()
        wait_for_time(away_s)
        fleet.server.restart()
        assert_nothing_was_lost(fleet, run_id, 160, workers=2)


def test_redis_hang_longer_than_lease_does_not_lose_samples(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_recording_profile(fleet, delay_s=0.5)
    run_id = enqueue_rows(fleet, RECORDING, make_rows(160), chunk=8)
    for _ in range(2):
        fleet.start_workers(RECORDING, chunks_in_flight=2, lease_s=LEASE_S, renew_s=0.2)
    fleet.wait_for_workers(RECORDING, 2)
    wait_for_parts(fleet, run_id, 3)
    with hanging_redis(fleet):
        wait_for_time(AWAY_S)
    assert_nothing_was_lost(fleet, run_id, 160, workers=2)


def test_read_only_redis_does_not_lose_samples(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_recording_profile(fleet, delay_s=0.5)
    run_id = enqueue_rows(fleet, RECORDING, make_rows(160), chunk=8)
    for _ in range(2):
        fleet.start_workers(RECORDING, chunks_in_flight=2)
    fleet.wait_for_workers(RECORDING, 2)
    wait_for_parts(fleet, run_id, 3)
    with read_only_redis(fleet):
        output = fleet.run_producer("resume", run_id, code=3)
        assert "does not accept writes" in output
        assert "FLEET_REDIS_URL" in output
        assert "Traceback" not in output
        wait_until(lambda: not fleet.workers(RECORDING), "the workers' records to expire")
    assert_nothing_was_lost(fleet, run_id, 160, workers=2)
