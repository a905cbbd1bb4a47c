"""The restart budget of a slot, and the notice that states why its worker is stopped."""

import signal
import socket

import pytest
import redis

from common.deaths import DeathCause
from common.exit_codes import ENGINE_DIED, NOT_STARTED, UNREACHABLE, USER_MUST_ACT
from common.ledger.worker_registry import WorkerRecord, announce_worker, list_workers
from tests.support.fleet import Fleet, make_rows
from tests.support.workers import enqueue_rows
from workers.supervisor.notices import report_exit, withdraw_notices
from workers.supervisor.restart_policy import RestartPolicy, describe_giving_up, name_code

HERE = socket.gethostname()


def end_at(restarts: RestartPolicy, ended_s: float, code: int = ENGINE_DIED, *, ran_s: float = 1.0) -> float | None:
    return restarts.plan_next(code, started_s=ended_s - ran_s, ended_s=ended_s)


def test_restart_budget_covers_a_sliding_hour() -> None:
    restarts = RestartPolicy(3)
    assert [end_at(restarts, 1000.0 * number, ran_s=61) for number in range(4)] == [1, 1, 1, None]
    assert end_at(restarts, 3600.0, ran_s=61) == 1, "the first restart is an hour old"
    assert end_at(restarts, 4599.0, ran_s=61) is None
    assert end_at(restarts, 4600.0, ran_s=61) == 1


def test_pauses_grow_until_a_healthy_minute() -> None:
    restarts = RestartPolicy(20)
    assert [end_at(restarts, float(number)) for number in range(7)] == [1, 2, 5, 10, 30, 30, 30]
    assert end_at(restarts, 100.0, ran_s=61) == 1
    assert end_at(restarts, 101.0) == 2


@pytest.mark.parametrize("code", [0, 1, ENGINE_DIED, NOT_STARTED, -signal.SIGKILL, -signal.SIGTERM])
def test_every_unrequested_exit_counts(code: int) -> None:
    restarts = RestartPolicy(1)
    assert end_at(restarts, 0.0, code) == 1
    assert end_at(restarts, 1.0, code) is None


def test_service_outage_does_not_use_restart_budget() -> None:
    restarts = RestartPolicy(1)
    assert all(end_at(restarts, 60.0 * number, UNREACHABLE) for number in range(100))
    assert end_at(restarts, 6000.0) == 30
    assert end_at(restarts, 6001.0) is None


def test_config_error_is_not_retried() -> None:
    assert end_at(RestartPolicy(20), 0.0, USER_MUST_ACT) is None
    assert end_at(RestartPolicy(0), 0.0) is None


def test_configuration_that_worked_before_is_retried() -> None:
    """The weights may be on a disk that is not mounted now."""
    restarts = RestartPolicy(1)
    assert end_at(restarts, 100.0, ran_s=61) == 1
    assert [end_at(restarts, 101.0 + number, USER_MUST_ACT) for number in range(100)][-1] == 30, "configuration errors do not count"
    assert end_at(restarts, 300.0) is None, "other exits count"


@pytest.mark.parametrize("ran_s", [1.0, 61.0])
def test_slow_load_of_wrong_configuration_is_not_retried(ran_s: float) -> None:
    restarts = RestartPolicy(20)
    assert end_at(restarts, 100.0, ENGINE_DIED) == 1
    assert end_at(restarts, 200.0, USER_MUST_ACT, ran_s=ran_s) is None


def test_reason_names_exit_code_and_meaning() -> None:
    assert describe_giving_up(ENGINE_DIED, 20) == "gave up after 20 restarts in an hour; last exit code 70 (engine died)"
    assert describe_giving_up(USER_MUST_ACT, 20) == "cannot start"
    assert describe_giving_up(0, 0) == "not started again (FLEET_MAX_RESTARTS=0); last exit code 0 (ended by itself)"
    assert "memory ran out" in name_code(-signal.SIGKILL)
    assert name_code(-signal.SIGABRT) == "aborted by native code, SIGABRT"
    assert name_code(-signal.SIGUSR2) == "killed by SIGUSR2"
    assert name_code(-99) == "killed by signal 99"
    assert name_code(120) == "unexpected"


def make_notice(worker: str, model: str = "echo", **fields: object) -> WorkerRecord:
    asked = {"device": worker.partition("@")[0], "pid": 7, "state": "stopped", "trouble": "gave up", **fields}
    return WorkerRecord.model_validate({"worker": worker, "model": model, **asked})


@pytest.fixture
def run_id(fleet: Fleet) -> str:
    fleet.write_profile("echo")
    return enqueue_rows(fleet, "echo", make_rows(4))


def test_losing_the_last_worker_pauses_its_runs(fleet: Fleet, run_id: str) -> None:
    """``producer resume`` continues the paused runs."""
    announce_worker(fleet.ledger.client, make_notice("gpu7@other"), ttl_s=60)
    report_exit(fleet.settings, make_notice("gpu0@here"), DeathCause.CRASH, gave_up=["gpu0@here"])
    status = fleet.status(run_id)
    assert (status.state, [worker.worker for worker in status.workers]) == ("paused", ["gpu0@here", "gpu7@other"])
    assert status.reason is not None
    assert status.reason.startswith("no worker of echo is left: gpu0@here gave up: see its log for the reason")
    assert status.reason.endswith(f"producer resume {run_id}")
    fleet.run_producer("resume", run_id)
    assert fleet.status(run_id).state == "running"


@pytest.mark.parametrize("state", ["ready", "draining"])
def test_runs_continue_while_another_launcher_has_workers(fleet: Fleet, run_id: str, state: str) -> None:
    announce_worker(fleet.ledger.client, make_notice("gpu7@other", state=state, trouble=None), ttl_s=60)
    report_exit(fleet.settings, make_notice("gpu0@here"), DeathCause.CRASH, gave_up=["gpu0@here"])
    assert fleet.status(run_id).state == "running"


def test_runs_continue_while_launcher_has_another_worker(fleet: Fleet, run_id: str) -> None:
    report_exit(fleet.settings, make_notice("gpu0@here"), DeathCause.CRASH, gave_up=None)
    assert fleet.status(run_id).state == "running"


def test_notice_keeps_last_trouble_of_dead_worker(fleet: Fleet, run_id: str) -> None:
    """The stale record of a dead worker does not count as a running worker."""
    last = make_notice("gpu0@here", state="ready", trouble="CUDA error: device lost")
    announce_worker(fleet.ledger.client, last, ttl_s=60)
    report_exit(fleet.settings, make_notice("gpu0@here"), DeathCause.CRASH, gave_up=["gpu0@here"])
    (worker,) = fleet.workers("echo")
    assert (worker.state, worker.trouble) == ("stopped", "gave up: CUDA error: device lost")
    assert fleet.status(run_id).state == "paused"


def test_unreachable_redis_is_only_logged(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.supervisor.notices._PATIENCE_S", 0)
    fleet.server.stop()
    report_exit(fleet.settings, make_notice("gpu0@here"), DeathCause.CRASH, gave_up=["gpu0@here"])
    fleet.server.restart()
    assert fleet.workers("echo") == []


def test_restarted_slot_withdraws_only_its_notice(redis_url: str) -> None:
    names = (f"gpu0@{HERE}", f"gpu1@{HERE}", f"cpu1@{HERE}", "gpu0@elsewhere")
    with redis.Redis.from_url(redis_url) as client:
        for record in (
            *map(make_notice, names),
            make_notice(f"gpu3@{HERE}", state="ready"),
            make_notice(f"cpu9@{HERE}", "other"),
        ):
            announce_worker(client, record, ttl_s=60)
        withdraw_notices(client, "echo", ["gpu0", "gpu3"])
        left = {f"gpu1@{HERE}", f"cpu1@{HERE}", "gpu0@elsewhere", f"gpu3@{HERE}"}
        assert {one.worker for one in list_workers(client, "echo")} == left
        withdraw_notices(client, "echo", ["cpu4711"])
        assert {one.worker for one in list_workers(client, "echo")} == left - {f"cpu1@{HERE}"}
        assert len(list_workers(client, "other")) == 1
