"""Remote control inspects a worker and cannot change it; a worker that cannot read its queue reports this as its trouble."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.worker.control import Panel
from flower.inspector import Inspector  # type: ignore[import-untyped]  # Flower has no types

from common.broker.app import make_app
from tests.support.fleet import Fleet, make_rows
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows
from workers.celery_ext.remote_control import INSPECTIONS, refuse_changes

# The commands of Celery 5.7 that workers refuse, with valid arguments. Workers also refuse commands of later versions. Such a
# command fails the test below until it is listed here or among the inspections.
REFUSED: dict[str, dict[str, Any]] = {
    "add_consumer": {"queue": "other"},
    "autoscale": {"max": 1, "min": 1},
    "cancel_consumer": {"queue": "fleet.steady"},
    "disable_events": {},
    "election": {"id": "any", "topic": "any"},
    "hello": {"from_node": "other", "revoked": ["any"]},
    "memdump": {},
    "memsample": {},
    "objgraph": {},
    "pool_grow": {},
    "pool_restart": {},
    "pool_shrink": {},
    "rate_limit": {"task_name": "fleet.run_chunk", "rate_limit": "1/h"},
    "revoke": {"task_id": "any", "terminate": True},
    "revoke_by_stamped_headers": {"headers": {"any": ["any"]}},
    "shutdown": {},
    "terminate": {"signal": "SIGKILL", "task_id": "any"},
    "time_limit": {"task_name": "fleet.run_chunk", "hard": 0.001},
}
ASKED: dict[str, dict[str, Any]] = {"query_task": {"ids": ["any"]}}


@pytest.fixture
def celery_app(fleet: Fleet) -> Iterator[Celery]:
    fleet.write_profile("steady")
    fleet.start_workers("steady")
    fleet.wait_for_workers("steady")
    with make_app(fleet.settings) as app:
        # A worker registers before it listens, and does not answer an earlier broadcast.
        wait_until(lambda: app.control.inspect(timeout=0.5).ping(), "the worker to listen")
        yield app


def ask(app: Celery, command: str, arguments: dict[str, Any]) -> Any:
    """Broadcast a command; return the answer of the only worker."""
    (reply,) = app.control.broadcast(command, arguments=arguments, reply=True, timeout=20, limit=1)
    ((answer,),) = [list(reply.values())]
    return answer


def test_changes_are_refused_and_inspection_answers(fleet: Fleet, celery_app: Celery) -> None:
    for name, arguments in REFUSED.items():
        assert f"{name} is disabled" in ask(celery_app, name, arguments)["error"]
    for name in sorted(INSPECTIONS):
        assert "error" not in (ask(celery_app, name, ASKED.get(name, {})) or {}), name
    run_id = enqueue_rows(fleet, "steady", make_rows(8), chunk=2)
    assert fleet.wait_for_end(run_id).samples.ok == 8


def test_every_command_inspects_or_is_refused() -> None:
    refuse_changes()
    assert set(Panel.meta) == INSPECTIONS | set(REFUSED)
    aliases = {meta.alias: name for name, meta in Panel.meta.items() if meta.alias}
    for name, command in Panel.data.items():
        if aliases.get(name, name) in INSPECTIONS:
            assert command.__module__ == "celery.worker.control"
        else:
            assert f"{name} is disabled" in command(None)["error"]


def test_flower_sends_only_inspections() -> None:
    assert set(Inspector.inspect_methods) <= INSPECTIONS


def test_worker_without_queue_access_reports_trouble(fleet: Fleet, celery_app: Celery) -> None:
    """Redis revokes the worker's permission to read queues, and restores it later."""
    del celery_app  # the worker listens
    client = fleet.ledger.client
    client.execute_command("ACL", "SETUSER", "default", "-brpop")  # type: ignore[no-untyped-call]  # redis-py has no types here
    run_id = enqueue_rows(fleet, "steady", make_rows(8), chunk=2)
    trouble = wait_until(lambda: fleet.status(run_id).workers[0].trouble, "the worker's trouble")
    assert "has not taken a message for" in trouble
    assert "has not taken a message for" in " ".join(fleet.run_producer("status", run_id).split())
    assert fleet.status(run_id).samples.ok == 0
    client.execute_command("ACL", "SETUSER", "default", "+brpop")  # type: ignore[no-untyped-call]  # as above
    assert fleet.wait_for_end(run_id).samples.ok == 8
    wait_until(lambda: all(not one.trouble for one in fleet.workers("steady")), "the end of the trouble")
    assert_run_is_sound(fleet, run_id)
