"""Workers read only JSON from the queue. Other content does not affect the worker or the run."""

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
    """An object that creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._folder),)


def make_exploits(folder: Path) -> dict[str, bytes]:
    """Return message bodies by content type. Deserializing one of the first two creates the folder."""
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
    """Enqueue a run and yield its id; assert afterwards that the run completed with sound results."""
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


ODD_HEADERS: dict[str, dict[str, Any]] = {
    "far eta": {"eta": "2999-01-01T00:00:00+00:00"},
    "past eta": {"eta": "1999-01-01T00:00:00+00:00"},
    "latest eta": {"eta": "9999-12-31T23:59:59-14:00"},
    "expired": {"expires": "1999-01-01T00:00:00+00:00"},
    "latest expiry": {"expires": "9999-12-31T23:59:59-14:00"},
    "malformed expiry": {"expires": "soon"},
    "unknown compression": {"compression": "none-such"},
    "wrong compression": {"compression": "gzip"},
    "unknown task": {"task": "no.such_task"},
    "list as task": {"task": [TASK_NAME]},
    "no id": {"id": None},
    "list as id": {"id": ["a"]},
    "huge header": {"argsrepr": "x" * 5_000_000},
    "text as time limits": {"timelimit": ["a", "b"]},
    "text as retries": {"retries": "many"},
    "high compression": {"compression": "application/x-bz2"},
    "group and chord": {"group": "g", "root_id": 7, "parent_id": {}},
}
ODD_BODIES = (
    *(b"[[], {}, {}]", b'[["a"], {}, {}]', b'[["a", 0, 1], {}, {}]', b'[["a", true], {}, {}]', b'[[], {"chunk": 0}, {}]'),
    *(b'{"args": ["a", 0], "task": "x", "id": "y", "eta": "2999-01-01T00:00:00"}', b'{"args": 1}', b'[["a", 0], {}, {"chain": 3}]'),
)
ODD_ENTRIES = (
    *(b"\x80\x04garbage", b"", b"5", b"null", b"[]", b"[" * 200_000, b'"text"', b"{}", b'{"body": 1}', b'{"properties": 1}'),
    *(b'{"properties": {}}', b'{"properties": {"delivery_tag": [1]}}', b'{"properties": {"delivery_tag": null}}'),
    b'{"body": "e30=", "headers": [], "properties": {"delivery_tag": "a", "body_encoding": "base64"}}',
    b'{"body": "e30=", "properties": {"delivery_tag": "b", "body_encoding": "rot13"}}',
    b'{"body": "!", "properties": {"delivery_tag": "c", "body_encoding": "base64"}}',
    b'{"body": "e30=", "properties": {"delivery_tag": "d", "body_encoding": "base64", "delivery_info": 3}}',
    b'{"body": "e30=", "properties": {"delivery_tag": {"a": 1}, "delivery_info": {"exchange": "", "routing_key": "x"}}}',
)


def test_unusual_message_does_not_restart_the_worker(fleet: Fleet, run_id: str) -> None:
    for odd in ODD_HEADERS.values():
        publish(fleet, b'[["odd-0123456789ab", 0], {}, {}]', **{**HEADERS, **odd})
    publish(fleet, b" " * 5_000_000 + b'[["odd-0123456789ab", 0], {}, {}]', **HEADERS)
    for body in ODD_BODIES:
        publish(fleet, body, **HEADERS)
        publish(fleet, body)
    fleet.ledger.client.rpush(queue_name("wary"), *ODD_ENTRIES)
    pid = run_to_the_end(fleet, run_id)
    assert [worker.pid for worker in fleet.workers("wary")] == [pid]
    assert fleet.read_log().count("worker.started") == 1
    assert fleet.read_log().count("it has more than 16,384 characters") == 2
    assert fleet.read_log().count("expected uncompressed UTF-8") == 3
    assert len(fleet.read_log()) < 1_000_000
    assert not any(make_app(fleet.settings).control.inspect(timeout=2).scheduled().values())


def test_many_messages_with_eta_do_not_block_worker(fleet: Fleet, run_id: str) -> None:
    for _ in range(100):
        publish(fleet, f'[["{run_id}", 0], {{}}, {{}}]'.encode(), **HEADERS, eta="2999-01-01T00:00:00+00:00")
    messages: Any = fleet.ledger.client.lrange(queue_name("wary"), 0, -1)
    fleet.ledger.client.delete(queue_name("wary"))
    fleet.ledger.client.lpush(queue_name("wary"), *reversed(messages))  # the worker reads messages with an eta first
    run_to_the_end(fleet, run_id)
    wait_until(lambda: not fleet.ledger.client.hlen("unacked"), "the messages to be acknowledged")
