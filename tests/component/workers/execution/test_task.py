"""The Celery task: every exception becomes a result, and invalid messages do not affect a run."""

import asyncio
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from kombu.exceptions import OperationalError
from obstore.exceptions import BaseError as StoreFailure
from redis.exceptions import ConnectionError as RedisAway

from common.errors import ConfigError, IntegrityError, LeaseLost, ServiceUnreachable
from common.storage.keys import index_key, samples_key
from tests.support.fleet import Fleet, make_rows
from tests.support.soundness import assert_run_is_sound
from tests.support.workers import enqueue_rows, open_worker
from workers import app
from workers.app import run_chunk_task
from workers.execution import task
from workers.runtime.worker import Worker


@pytest.fixture
def worker(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    fleet.write_profile("tried")
    with open_worker(fleet, "tried") as worker:
        monkeypatch.setattr(app, "current_worker", lambda: worker)
        yield worker


def raise_inside(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(task, "run_chunk", fail)


def state_of(fleet: Fleet, run_id: str) -> tuple[str, str]:
    view = fleet.ledger.view_run(run_id)
    assert view is not None
    return view.state, view.reason


def test_repeated_message_runs_its_chunk_once(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    assert [run_chunk_task(run_id, 0) for _ in range(3)] == ["done", "not needed", "not needed"]
    assert_run_is_sound(fleet, run_id)


def test_message_for_unknown_chunk_is_ignored(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(20))
    nonsense: list[Any] = [-1, 2, 10**30, "0", "zero", None, 0.0, [0], {}]
    assert {run_chunk_task(run_id, number) for number in nonsense} == {"unknown"}
    assert [run_chunk_task(run_id, number) for number in (0, 1)] == ["done", "done"]
    assert_run_is_sound(fleet, run_id)


def test_message_for_unknown_run_is_ignored(worker: Worker, fleet: Fleet) -> None:
    nonsense: list[Any] = ["tried-0123456789ab", "", "../../etc", 7, None, ["tried"], "a\0b"]
    assert {run_chunk_task(run_id, 0) for run_id in nonsense} == {"unknown", "failed"}
    assert fleet.ledger.list_runs("tried") == []
    assert [key for key in fleet.ledger.client.scan_iter() if b"}:" in key] == [], "the ledger must not have keys of an unknown run"


@pytest.mark.parametrize("missing", [samples_key, index_key])
def test_damaged_plan_pauses_its_run(worker: Worker, fleet: Fleet, missing: Any) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    (fleet.folder / "store" / missing(run_id)).unlink()
    assert run_chunk_task(run_id, 0) == "failed"
    state, reason = state_of(fleet, run_id)
    assert state == "paused"
    assert reason.startswith("tried@test: ")
    assert "plan/w1" in reason


@pytest.mark.parametrize("error", [IntegrityError("contradiction"), ConfigError("no such validator")])
def test_errors_that_need_a_user_pause_the_run(
    worker: Worker, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    raise_inside(monkeypatch, error)
    assert run_chunk_task(run_id, 0) == "failed"
    assert state_of(fleet, run_id) == ("paused", f"tried@test: {error}")


def test_any_exception_becomes_a_result(worker: Worker, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(4))
    ends: list[tuple[BaseException, str]] = [
        (LeaseLost("gone"), "lost"),
        (ServiceUnreachable("away"), "away"),
        (RedisAway("away"), "away"),
        (StoreFailure("away"), "away"),
        (OperationalError("away"), "away"),
        (RuntimeError("odd"), "failed"),
        (MemoryError(), "failed"),
        (SystemExit(1), "failed"),
        (KeyboardInterrupt(), "failed"),
        (asyncio.CancelledError(), "failed"),
        (GeneratorExit(), "failed"),
    ]
    for error, word in ends:
        with monkeypatch.context() as patch:
            raise_inside(patch, error)
            assert run_chunk_task(run_id, 0) == word, repr(error)
    assert state_of(fleet, run_id) == ("running", "")
    assert run_chunk_task(run_id, 0) == "done"
