"""Messages are lost, repeated or invalid: the run completes with correct results, which do not depend on messages."""

import json
from collections import Counter
from typing import Any

from common.broker.app import TASK_NAME, make_app, ring
from common.broker.queues import queue_name
from common.storage.keys import parts_prefix
from common.storage.run_record import load_planned_run, read_run
from producer.runs.rebuild import open_run
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

MODEL = "recording"

# Positional arguments that the producer never sends, and arguments that do not name a run or a chunk.
INVALID_ARGUMENTS: list[list[Any]] = [
    [],
    ["only-a-run"],
    ["recording-0123456789ab", 0],
    ["recording-0123456789ab", "zero"],
    [None, None],
    [["a", "list"], {"a": "mapping"}],
    [1, 2, 3],
]


def write_profile(fleet: Fleet, **options: Any) -> None:
    options = {"asked": str(fleet.folder / "asked"), **options}
    fleet.write_profile(MODEL, engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)


def count_parts(fleet: Fleet, run_id: str) -> int:
    return len(list(fleet.store.list_keys(parts_prefix(run_id))))


def assert_nothing_asked_twice(fleet: Fleet) -> None:
    asked = Counter((fleet.folder / "asked").read_text().split())
    assert set(asked.values()) == {1}


def test_run_without_queue_messages_completes(clean_fleet: Fleet) -> None:
    """The first messages are not published, and the queue is deleted several times during the run."""
    fleet = clean_fleet
    write_profile(fleet, delay_s=0.1)
    run_id = enqueue_rows(fleet, MODEL, make_rows(160), chunk=4)
    fleet.ledger.forget_run(run_id)
    fleet.ledger.client.delete(queue_name(MODEL))
    assert open_run(load_planned_run(fleet.store, run_id), fleet.store, fleet.ledger)
    fleet.start_workers(MODEL, chunks_in_flight=1)
    for parts in (2, 12, 24):
        wait_until(lambda parts=parts: count_parts(fleet, run_id) >= parts, f"{parts} parts")  # type: ignore[misc]  # bound by default
        fleet.ledger.client.delete(queue_name(MODEL))
    assert fleet.wait_for_end(run_id).samples.ok == 160
    assert_run_is_sound(fleet, run_id)
    assert_nothing_asked_twice(fleet)


def test_invalid_or_repeated_messages_are_harmless(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_profile(fleet, delay_s=0.02)
    run_id = enqueue_rows(fleet, MODEL, make_rows(160), chunk=4)
    app = make_app(fleet.settings)
    chunks = read_run(fleet.store, run_id)[1].chunks
    for number in (-1, chunks, 10**12, "0", None, 0.5):
        app.send_task(TASK_NAME, args=[run_id, number], queue=queue_name(MODEL))
    for arguments in INVALID_ARGUMENTS:
        app.send_task(TASK_NAME, args=arguments, queue=queue_name(MODEL))
    app.send_task(TASK_NAME, kwargs={"chunk": 0, "colour": "red"}, queue=queue_name(MODEL))
    app.send_task("no.such_task", args=[run_id, 0], queue=queue_name(MODEL))
    for _ in range(2):
        ring(app, MODEL, run_id, range(chunks))
    fleet.start_workers(MODEL, chunks_in_flight=2)
    (worker,) = fleet.wait_for_workers(MODEL)
    assert fleet.wait_for_end(run_id).samples.ok == 160
    wait_until(lambda: fleet.ledger.client.llen(queue_name(MODEL)) == 0, "the messages for done chunks to be taken")
    assert_run_is_sound(fleet, run_id)
    assert_nothing_asked_twice(fleet)
    assert [one.pid for one in fleet.workers(MODEL)] == [worker.pid], "the first worker must still run"
    assert fleet.ledger.list_runs(MODEL) == []


def test_malformed_queue_entries_do_not_stop_run(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_profile(fleet)
    run_id = enqueue_rows(fleet, MODEL, make_rows(40))
    garbage: list[bytes] = [b"\xff\x00 not even text", json.dumps({"body": "!", "headers": {}, "properties": {}}).encode()]
    for one in garbage:
        fleet.ledger.client.rpush(queue_name(MODEL), one)  # the head of the queue
    fleet.start_workers(MODEL)
    fleet.wait_for_end(run_id)
    assert_run_is_sound(fleet, run_id)
