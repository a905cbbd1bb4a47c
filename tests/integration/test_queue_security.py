"""Workers read only JSON from the queue; any other content harms neither the worker nor the run."""

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.entity import Exchange

from common.broker.app import TASK_NAME, make_app
from common.broker.queues import queue_name
from tests.support.fleet import Fleet, make_rows
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until

PICKLE = "application/x-python-serialize"
HEADERS = {"task": TASK_NAME, "id": "of-a-stranger", "lang": "py", "argsrepr": ""}


class Exploit:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._folder),)


def make_exploits(folder: Path) -> dict[str, bytes]:
    """Return message bodies by content type.  Deserializing one of the first two creates the folder."""
    return {
        PICKLE: pickle.dumps(([Exploit(folder), 1], {}, {})),
        "application/x-yaml": f"!!python/object/apply:os.mkdir ['{folder}']".encode(),
        "application/x-msgpack": b"\x93\x92\xa1x\x01\x80\x80",
        "application/data": b"\x00\xff",
        "application/text": b"text",
    }


def publish(fleet: Fleet, body: bytes, content_type: str = "application/json", *, to: str = "", **headers: Any) -> None:
    """Send a message unchanged, to the queue of the model ``wary`` or to the fanout exchange and topic ``to``."""
    exchange, _, topic = to.partition("/")
    where = Exchange(exchange, type="fanout") if to else None  # type: ignore[no-untyped-call]  # kombu has no types
    with make_app(fleet.settings).connection() as connection, connection.Producer() as producer:
        producer.publish(
            body,
            exchange=where,
            declare=[where] if where else [],
            routing_key=topic if to else queue_name("wary"),
            content_type=content_type,
            content_encoding="binary",
            headers=headers,
        )


@pytest.fixture
def run_id(fleet: Fleet) -> Iterator[str]:
    """Enqueue a run and yield its id; assert afterwards that the run ended sound."""
    fleet.write_profile("wary")
    rows = fleet.write_dataset("rows", make_rows(16))
    run_id = fleet.enqueue(fleet.write_spec("wary", [rows], chunks={"max_samples": 4})).run_id
    yield run_id
    assert_run_is_sound(fleet, run_id)


def run_to_the_end(fleet: Fleet, run_id: str) -> int:
    """Start one worker, wait until the run is done and the queue is empty; return the worker's pid."""
    fleet.start_workers("wary")
    (worker,) = fleet.wait_for_workers("wary")
    fleet.wait_for_end(run_id)
    wait_until(lambda: not fleet.ledger.client.llen(queue_name("wary")), "the queue to be read")
    wait_until(lambda: make_app(fleet.settings).control.inspect(timeout=0.5).ping(), "the worker to answer a ping")
    return worker.pid


def test_message_that_is_not_json_is_refused(fleet: Fleet, run_id: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    for content_type, body in make_exploits(made).items():
        publish(fleet, body, content_type, **HEADERS)
    pid = run_to_the_end(fleet, run_id)
    publish(fleet, make_exploits(made)[PICKLE], PICKLE, to="celery.pidbox")  # remote control uses another queue
    refused = "Refusing to deserialize untrusted content of type pickle"
    wait_until(lambda: fleet.read_log().count(f"Can't decode message body: ContentDisallowed('{refused}"), "the refusal")
    assert make_app(fleet.settings).control.inspect(timeout=2).ping()
    assert not made.exists()
    assert [worker.pid for worker in fleet.workers("wary")] == [pid]
    assert f"invalid task message: {refused}" in fleet.read_log()


def test_event_that_is_not_json_is_refused(fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = tmp_path / "made"
    app = make_app(fleet.settings)
    with app.connection() as connection, app.events.Receiver(connection).consumer_context(wakeup=False) as (listening, _, _):
        listening.drain_events(timeout=20)  # the reply to the subscription
        publish(fleet, make_exploits(made)[PICKLE], PICKLE, to="celeryev/worker.heartbeat")
        listening.drain_events(timeout=20)
    assert "Refusing to deserialize untrusted content of type pickle" in caplog.text
    assert not made.exists()


def test_malformed_message_is_dropped_without_worker_restart(fleet: Fleet, run_id: str) -> None:
    for body in (b"[[", b"5", b"null", b'"text"', b"[]", b"[1, 2]", b"\xff\xfe", b"[" * 100_000, b'[["run", 1], {}, {"chord": 3}]'):
        publish(fleet, body, **HEADERS)
    wrong: list[dict[str, Any]] = [{}, {"task": None}, {"task": TASK_NAME}, {"task": "os.system"}, {**HEADERS, "eta": "x", "id": 3}]
    for headers in wrong:
        publish(fleet, b'[["nobody", 0], {}, {}]', **headers)
    pid = run_to_the_end(fleet, run_id)
    assert [worker.pid for worker in fleet.workers("wary")] == [pid]


@pytest.mark.parametrize("garbage", [b"\x80\x04garbage", b'{"body": 1}'])
def test_garbage_in_queue_costs_at_most_one_restart(fleet: Fleet, run_id: str, garbage: bytes) -> None:
    fleet.ledger.client.lpush(queue_name("wary"), garbage)
    run_to_the_end(fleet, run_id)
