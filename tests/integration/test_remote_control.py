"""Remote control inspects a worker and cannot change it, so that a worker that is ready also consumes."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.worker.control import Panel

from common.broker.app import make_app
from tests.support.fleet import Fleet, make_rows
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows
from workers.celery_ext.remote_control import refuse_changes

EVENTS = {"enable_events", "disable_events", "heartbeat"}
CHANGES = sorted(name for name, command in Panel.meta.items() if command.type != "inspect" and name not in EVENTS)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "add_consumer": {"queue": "other"},
    "autoscale": {"max": 1, "min": 1},
    "cancel_consumer": {"queue": "fleet.steady"},
    "rate_limit": {"task_name": "fleet.run_chunk", "rate_limit": "1/h"},
    "revoke": {"task_id": "any", "terminate": True},
    "terminate": {"signal": "SIGKILL", "task_id": "any"},
    "time_limit": {"task_name": "fleet.run_chunk", "hard": 0.001},
}


@pytest.fixture
def celery_app(fleet: Fleet) -> Iterator[Celery]:
    fleet.write_profile("steady")
    fleet.start_workers("steady")
    fleet.wait_for_workers("steady")
    with make_app(fleet.settings) as app:
        # A worker is in the registry before it listens, and a broadcast that it missed has no answer.
        wait_until(lambda: app.control.inspect(timeout=0.5).ping(), "the worker to listen")
        yield app


def test_changes_are_refused_and_inspection_answers(fleet: Fleet, celery_app: Celery) -> None:
    for name in CHANGES:
        (reply,) = celery_app.control.broadcast(name, arguments=ARGUMENTS.get(name, {}), reply=True, timeout=20, limit=1)
        ((answer,),) = [list(reply.values())]
        assert f"{name} is off" in answer["error"]
    for name in ("ping", "stats", "active", "active_queues", "registered", "conf"):
        (reply,) = celery_app.control.broadcast(name, reply=True, timeout=20, limit=1)
        ((answer,),) = [list(reply.values())]
        assert "error" not in answer
    run_id = enqueue_rows(fleet, "steady", make_rows(8), chunk=2)
    assert fleet.wait_for_end(run_id).samples.ok == 8


def test_every_command_inspects_or_is_refused() -> None:
    """A new command of Celery that changes a worker must be refused as well."""
    refuse_changes()
    for name, command in Panel.meta.items():
        if command.type == "inspect":
            assert Panel.data[name].__module__ == "celery.worker.control"
        elif name not in EVENTS:
            assert "is off" in Panel.data[name](None)["error"]
    assert {"shutdown", "cancel_consumer", "rate_limit", "revoke", "pool_shrink"} <= set(CHANGES)
