"""Messages arrive late, when the state of the chunk, the run or the worker has changed. Samples are not sent again."""

import base64
import json
from typing import Any

from common.broker.app import make_app
from common.broker.queues import queue_name
from producer.runs.control import cancel_run, resume_run
from tests.support.asked_samples import read_asked
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

MODEL = "recording"
CHUNK_SAMPLES = 4
SAMPLES = 24
CHUNKS = SAMPLES // CHUNK_SAMPLES
NO_JANITOR = {"chunks_in_flight": 2, "janitor_s": 600}  # the janitor does not publish chunks again during the test


def enqueue(fleet: Fleet) -> str:
    write_profile(fleet)
    return enqueue_rows(fleet, MODEL, make_rows(SAMPLES), chunk=CHUNK_SAMPLES)


def write_profile(fleet: Fleet, **options: Any) -> None:
    options = {"asked": str(fleet.folder / "asked"), **options}
    fleet.write_changing_profile(MODEL, "tests.support.engines.dying_engine:RecordingEngine", options)


def withhold_messages(fleet: Fleet, *chunks: int) -> list[bytes]:
    """Remove the messages of these chunks from the queue and return them."""
    client: Any = fleet.ledger.client
    held = [message for message in client.lrange(queue_name(MODEL), 0, -1) if read_chunk_number(message) in chunks]
    assert len(held) == len(chunks)
    for message in held:
        assert client.lrem(queue_name(MODEL), 1, message) == 1
    return held


def copy_messages(fleet: Fleet) -> list[bytes]:
    messages: Any = fleet.ledger.client.lrange(queue_name(MODEL), 0, -1)
    assert len(messages) == CHUNKS
    return list(messages)


def read_chunk_number(message: bytes) -> int:
    arguments = json.loads(base64.b64decode(json.loads(message)["body"]))[0]
    return int(arguments[1])


def deliver(fleet: Fleet, messages: list[bytes], *, became: str = "not needed") -> None:
    """Put messages at the head of the queue, and wait until the worker has logged the result ``became`` for each."""
    before = fleet.read_log().count(f"'{became}'")
    fleet.ledger.client.rpush(queue_name(MODEL), *messages)
    wait_until(lambda: fleet.read_log().count(f"'{became}'") >= before + len(messages), f"late messages to be {became}")


def assert_asked_once(fleet: Fleet) -> None:
    asked = read_asked(fleet)
    assert len(asked) == asked.total() == SAMPLES


def assert_nothing_broke(fleet: Fleet, *, workers: int = 1) -> None:
    log = fleet.read_log()
    assert log.count("worker.started") == workers
    assert "Traceback" not in log
    assert "[error" not in log


def test_message_for_a_finished_chunk_is_ignored(clean_fleet: Fleet) -> None:
    """Check messages during the run, for its last chunk, and after its end."""
    fleet = clean_fleet
    run_id = enqueue(fleet)
    copies = copy_messages(fleet)
    (last,) = withhold_messages(fleet, CHUNKS - 1)
    fleet.start_workers(MODEL, **NO_JANITOR)
    wait_until(lambda: fleet.status(run_id).samples.ok == SAMPLES - CHUNK_SAMPLES, "the chunks that were not withheld")
    deliver(fleet, [message for message in copies if message != last])
    assert fleet.status(run_id).state == "running"
    deliver(fleet, [last], became="done")
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
    deliver(fleet, copies)
    assert_run_is_sound(fleet, run_id)
    assert_asked_once(fleet)
    assert_nothing_broke(fleet)


def test_message_after_janitor_republished_is_ignored(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    run_id = enqueue(fleet)
    late = withhold_messages(fleet, 1, 4)
    fleet.start_workers(MODEL, chunks_in_flight=2)
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES  # the janitor published the two chunks again once the queue was empty
    deliver(fleet, late)
    assert_run_is_sound(fleet, run_id)
    assert_asked_once(fleet)
    assert_nothing_broke(fleet)


def test_message_of_a_cancelled_run_is_ignored(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    run_id = enqueue(fleet)
    late = withhold_messages(fleet, *range(CHUNKS))
    cancel_run(run_id, fleet.store, fleet.ledger)
    fleet.start_workers(MODEL, chunks_in_flight=2)
    deliver(fleet, late)
    assert not read_asked(fleet)
    assert fleet.status(run_id).state == "cancelled"
    resume_run(run_id, fleet.store, fleet.ledger, make_app(fleet.settings))
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
    assert_run_is_sound(fleet, run_id)
    assert_asked_once(fleet)
    assert_nothing_broke(fleet)


def test_message_of_a_lost_run_is_ignored(clean_fleet: Fleet) -> None:
    """The message must not create keys of a run that Redis has lost."""
    fleet = clean_fleet
    run_id = enqueue(fleet)
    late = withhold_messages(fleet, 1, 4)
    fleet.start_workers(MODEL, **NO_JANITOR)
    wait_until(lambda: fleet.status(run_id).samples.ok == SAMPLES - 2 * CHUNK_SAMPLES, "the chunks that were not withheld")
    fleet.ledger.forget_run(run_id)
    deliver(fleet, late)
    assert fleet.ledger.view_run(run_id) is None
    assert list(fleet.ledger.client.scan_iter(match=f"fleet:{{{run_id}}}:*")) == []
    assert resume_run(run_id, fleet.store, fleet.ledger, make_app(fleet.settings)).rung == 2
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
    assert_run_is_sound(fleet, run_id)
    assert_asked_once(fleet)
    assert_nothing_broke(fleet)


def test_first_wave_message_is_ignored_in_second_wave(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_profile(fleet, table=[{"match": "[02468]\\?", "fault": "error"}])
    run_id = enqueue_rows(fleet, MODEL, make_rows(SAMPLES), chunk=CHUNK_SAMPLES)
    late = copy_messages(fleet)
    launcher = fleet.start_workers(MODEL, chunks_in_flight=2)
    ended = fleet.wait_for_end(run_id).samples
    assert (ended.ok, ended.failed) == (SAMPLES // 2, SAMPLES // 2)
    launcher.terminate()
    assert launcher.wait(timeout=30) == 0

    write_profile(fleet, delay_s=0.5)
    fleet.start_workers(MODEL, chunks_in_flight=1)
    resumed = resume_run(run_id, fleet.store, fleet.ledger, make_app(fleet.settings), retry=["failed"])
    assert resumed.retried == SAMPLES // 2
    deliver(fleet, late)
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
    outcomes = assert_run_is_sound(fleet, run_id)
    asked = read_asked(fleet)
    assert {outcome.sample_id: len(outcome.attempts) for outcome in outcomes} == asked
    assert sorted(asked.values()) == [1] * (SAMPLES // 2) + [2] * (SAMPLES // 2)
    assert_nothing_broke(fleet, workers=2)


def test_next_worker_runs_chunk_of_late_message(clean_fleet: Fleet) -> None:
    """A message that arrives after the end of one worker is handled by the next worker."""
    fleet = clean_fleet
    run_id = enqueue(fleet)
    late = withhold_messages(fleet, 1, 4)
    launcher = fleet.start_workers(MODEL, **NO_JANITOR)
    wait_until(lambda: fleet.status(run_id).samples.ok == SAMPLES - 2 * CHUNK_SAMPLES, "the chunks that were not withheld")
    launcher.terminate()
    assert launcher.wait(timeout=30) == 0
    fleet.start_workers(MODEL, **NO_JANITOR)
    deliver(fleet, late, became="done")
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
    assert_run_is_sound(fleet, run_id)
    assert_asked_once(fleet)
    assert_nothing_broke(fleet, workers=2)
