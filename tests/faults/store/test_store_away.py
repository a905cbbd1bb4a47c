"""Object storage does not respond, or its responses are lost: the run continues by itself, and parts are not written twice."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.storage.keys import parts_prefix
from tests.support.faults.faulty_s3 import FaultyS3, answer, faulty_s3, lose_answer
from tests.support.fleet import Fleet, make_rows, start_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["faulty_s3"]  # a fixture

UNANSWERED = "the store does not answer"


@pytest.fixture
def s3_fleet(faulty_s3: FaultyS3, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    with start_fleet(tmp_path, monkeypatch, store_url=s3_url) as fleet:
        options = {"delay_s": 0.1, "asked": str(fleet.folder / "asked")}
        fleet.write_profile("recording", engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
        yield fleet


def start_run(fleet: Fleet) -> str:
    """Enqueue 200 samples in chunks of 10; return the run's id once three parts are written."""
    run_id = enqueue_rows(fleet, "recording", make_rows(200), chunk=10)
    fleet.start_workers("recording", chunks_in_flight=2)
    wait_until(lambda: count_parts(fleet, run_id) >= 3, "three parts")
    return run_id


def count_parts(fleet: Fleet, run_id: str) -> int:
    return len(list(fleet.store.list_keys(parts_prefix(run_id))))


def assert_each_sample_asked_once(fleet: Fleet, run_id: str) -> None:
    assert fleet.wait_for_end(run_id).samples.ok == 200
    assert len(assert_run_is_sound(fleet, run_id)) == 200
    asked = Counter((fleet.folder / "asked").read_text().split())
    assert set(asked.values()) == {1}, "the journal must be used"


def test_short_outage_is_retried_without_log_message(s3_fleet: Fleet, faulty_s3: FaultyS3) -> None:
    """The retries of the store's client are sufficient."""
    run_id = start_run(s3_fleet)
    faulty_s3.inject(answer(503, "SlowDown"), times=12)
    wait_until(lambda: len(faulty_s3.faulted) == 12, "12 failed requests")
    assert_each_sample_asked_once(s3_fleet, run_id)
    assert UNANSWERED not in s3_fleet.read_log()


def test_run_continues_after_long_store_outage(s3_fleet: Fleet, faulty_s3: FaultyS3) -> None:
    """During the outage, which is longer than a lease, commands exit with 3; the run continues by itself."""
    fleet = s3_fleet
    run_id = start_run(fleet)
    faulty_s3.shut()
    fleet.start_workers("recording", chunks_in_flight=2)  # this worker cannot start yet
    commands = [
        ["status", run_id],
        ["resume", run_id],
        ["enqueue", str(fleet.folder / "recording.spec.yaml")],
        ["collect", run_id, "--out", str(fleet.folder / "out")],
    ]
    with ThreadPoolExecutor(len(commands)) as pool:
        for output in pool.map(lambda command: fleet.run_producer(*command, code=3), commands):
            assert f"producer: {fleet.store.url}" in output
            assert UNANSWERED in output
            assert "Traceback" not in output
    assert not (fleet.folder / "out" / "results.parquet").exists()
    wait_until(lambda: "service.awaited" in fleet.read_log(), "a worker that starts during the outage")
    wait_until(lambda: "chunk.postponed" in fleet.read_log(), "a chunk that is postponed")
    view = fleet.ledger.view_run(run_id)
    assert view is not None
    assert view.state == "running", "a transient error must not pause the run, because the user does not have to act"

    faulty_s3.open()
    assert_each_sample_asked_once(fleet, run_id)


@pytest.mark.parametrize("point", ["runs/.*/parts/", "runs/.*/plan/"], ids=["parts", "plan"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_lost_store_responses_do_not_repeat_samples(s3_fleet: Fleet, faulty_s3: FaultyS3, method: str, point: str) -> None:
    faulty_s3.inject(lose_answer, f"^{method} .*{point}", times=3)
    run_id = enqueue_rows(s3_fleet, "recording", make_rows(60), chunk=10)
    s3_fleet.start_workers("recording", chunks_in_flight=2)
    assert s3_fleet.wait_for_end(run_id).samples.ok == 60
    assert_run_is_sound(s3_fleet, run_id)
    assert set(Counter((s3_fleet.folder / "asked").read_text().split()).values()) == {1}
    assert len(faulty_s3.faulted) == 3 if point.endswith("parts/") else faulty_s3.faulted


def test_part_stored_despite_lost_responses_is_accepted(s3_fleet: Fleet, faulty_s3: FaultyS3) -> None:
    """The store has the part, but its writer gave up because every response was lost."""
    run_id = start_run(s3_fleet)
    faulty_s3.inject(lose_answer, f"^PUT .*{parts_prefix(run_id)}")
    wait_until(lambda: "chunk.postponed" in s3_fleet.read_log(), "a worker that gave up on its part")
    faulty_s3.clear_faults()
    assert_each_sample_asked_once(s3_fleet, run_id)
