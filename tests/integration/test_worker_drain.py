"""Stopping workers: running chunks may finish, other chunks are released with their journal, and all processes end."""

import os
import signal
from collections import Counter
from typing import Any

from common.ledger.keys import journal_key
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import assert_no_leases_held, clean_fleet, find_processes, start_launcher
from tests.support.planning import run_chunks
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

WORKERS = ("--model", "recording", "--gpus", "none")


def write_profile(fleet: Fleet, **options: Any) -> None:
    """Write the profile of an engine that records its requests."""
    options = {"asked": str(fleet.folder / "asked"), **options}
    fleet.write_changing_profile("recording", "tests.support.engines.dying_engine:RecordingEngine", options)


def read_asked(fleet: Fleet) -> Counter[str]:
    """Return how often each sample was sent."""
    path = fleet.folder / "asked"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def wait_for_asked(fleet: Fleet, count: int) -> None:
    wait_until(lambda: len(read_asked(fleet)) >= count, f"{count} samples to be sent")


def finish_run(fleet: Fleet, run_id: str) -> None:
    """Run the remaining chunks of a run in this process."""
    run_chunks(fleet, "recording", run_id)


def journaled(fleet: Fleet, run_id: str, chunk: int = 0) -> int:
    count: Any = fleet.ledger.client.hlen(journal_key(run_id, chunk))
    return int(count)


def test_drain_finishes_only_running_chunks(clean_fleet: Fleet) -> None:
    """SIGTERM and SIGINT to the launcher's process group both start the drain."""
    fleet = clean_fleet
    write_profile(fleet, delay_s=0.6)
    run_id = enqueue_rows(fleet, "recording", make_rows(200), chunk=4)
    for number, signal_number in enumerate((signal.SIGTERM, signal.SIGINT), start=1):
        with start_launcher(fleet, *WORKERS, environment=fleet.environment(chunks_in_flight=2)) as launcher:
            wait_for_asked(fleet, len(read_asked(fleet)) + 8)
            os.killpg(launcher.pid, signal_number)
            assert launcher.wait(timeout=30) == 0, launcher.stderr and launcher.stderr.read()
            assert find_processes(fleet) == []
        assert_no_leases_held(fleet, run_id, "recording")
        samples = fleet.status(run_id).samples
        assert samples.ok == len(read_asked(fleet)) >= 8 * number, "every sample that was sent must be committed"
        assert samples.unprocessed == 200 - samples.ok > 0
    write_profile(fleet)
    finish_run(fleet, run_id)
    assert_run_is_sound(fleet, run_id)
    assert set(read_asked(fleet).values()) == {1}


def test_unfinished_chunk_is_released_with_its_journal(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_profile(fleet, table=[{"match": "slow", "fault": "hang"}])
    slow = {"id": "slow", "question": "slow?", "target": "ok"}
    run_id = enqueue_rows(fleet, "recording", [*make_rows(7), slow], chunk=8)
    with start_launcher(fleet, *WORKERS, environment=fleet.environment(drain_grace_s=0.3)) as launcher:
        wait_until(lambda: journaled(fleet, run_id) == 7, "all samples but the slow one in the journal")
        launcher.terminate()
        assert launcher.wait(timeout=30) == 0
        assert find_processes(fleet) == []
    assert fleet.ledger.expire_leases(run_id) == [0], "any worker must be able to take the chunk over immediately"
    assert fleet.workers("recording") == []
    assert journaled(fleet, run_id) == 7
    write_profile(fleet)
    finish_run(fleet, run_id)
    outcomes = assert_run_is_sound(fleet, run_id)
    asked = read_asked(fleet)
    assert all(asked[outcome.sample_id] == (2 if outcome.index == "slow" else 1) for outcome in outcomes)


def test_second_signal_kills_workers_and_leases_expire(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_profile(fleet, table=[{"match": "", "fault": "hang"}])
    run_id = enqueue_rows(fleet, "recording", make_rows(4))
    environment = fleet.environment(drain_grace_s=600, lease_s=1, renew_s=0.2)
    with start_launcher(fleet, *WORKERS, environment=environment) as launcher:
        wait_for_asked(fleet, 4)
        launcher.terminate()
        wait_until(lambda: [one for one in fleet.workers("recording") if one.state == "draining"], "the drain to begin")
        launcher.terminate()
        assert launcher.wait(timeout=30) == 130
        assert find_processes(fleet) == []
    assert wait_until(lambda: fleet.ledger.expire_leases(run_id), "the lease to expire") == [0]
    wait_until(lambda: not fleet.workers("recording"), "the killed worker's record to expire")


def test_workers_drain_when_their_launcher_is_killed(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_profile(fleet, delay_s=0.6)
    run_id = enqueue_rows(fleet, "recording", make_rows(200), chunk=4)
    with start_launcher(fleet, *WORKERS, environment=fleet.environment(chunks_in_flight=2)) as launcher:
        wait_for_asked(fleet, 8)
        launcher.kill()
        wait_until(lambda: not find_processes(fleet), "the worker to end by itself")
    assert_no_leases_held(fleet, run_id, "recording")
    assert fleet.status(run_id).samples.ok == len(read_asked(fleet))


def test_loading_worker_stops_immediately(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    notes = fleet.folder / "notes"
    options = {"notes": str(notes), "load_s": 600}
    fleet.write_profile("loading", engine="tests.support.engines.faulty_engines:ParentEngine", engine_options=options)
    environment = fleet.environment(drain_grace_s=600)
    with start_launcher(fleet, "--model", "loading", "--gpus", "none", environment=environment) as launcher:
        wait_until(notes.exists, "the model to start loading")
        launcher.terminate()
        assert launcher.wait(timeout=30) == 0
        assert find_processes(fleet) == []
