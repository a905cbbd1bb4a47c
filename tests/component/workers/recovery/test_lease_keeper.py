"""The heartbeat, against a real Redis: held leases are renewed, and a lost lease is detected."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from common.ledger.connection import connect_redis
from common.ledger.keys import run_keys
from common.ledger.ledger import Ledger
from common.records import Lease, Plan
from common.settings import Settings
from producer.demo.redis_server import start_redis
from tests.support.waiting import wait_until
from workers.recovery import lease_keeper as heartbeat
from workers.recovery.lease_keeper import LeaseKeeper

RUN = "tiny-1"
LEASES = run_keys(RUN).leases


@contextmanager
def beat(
    url: str, duties: Callable[[], None] = lambda: None, *, lease_s: float = 30, launcher: int | None = None
) -> Iterator[tuple[LeaseKeeper, Ledger]]:
    """Yield a running heartbeat and its ledger, with an open run of four chunks."""
    chosen = Settings(redis_url=url, lease_s=lease_s, renew_s=0.02)
    with connect_redis(chosen, patience_s=0) as client:
        ledger = Ledger(client, chosen)
        ledger.open_run(Plan(run_id=RUN, samples=4, chunks=4, datasets=()), "tiny")
        beating = LeaseKeeper(ledger, chosen, duties, launcher)
        beating.start()
        try:
            yield beating, ledger
        finally:
            beating.stop()


def acquire(ledger: Ledger, chunk: int = 0) -> Lease:
    lease = ledger.acquire(RUN, chunk, "me@here")
    assert lease is not None
    return lease


def expiry(ledger: Ledger, chunk: int = 0) -> float:
    score = ledger.client.zscore(LEASES, str(chunk))
    return score if isinstance(score, float) else 0.0


def test_kept_lease_is_renewed_until_released(redis_url: str) -> None:
    beats: list[int] = []
    with beat(redis_url, lambda: beats.append(1)) as (beating, ledger):
        lease, dropped = acquire(ledger), acquire(ledger, 1)
        first, never = expiry(ledger), expiry(ledger, 1)
        with beating.keep(lease) as held, beating.keep(dropped):
            assert beating.leases == [lease, dropped]
            wait_until(lambda: expiry(ledger) > first and expiry(ledger, 1) > never, "both leases to be renewed")
        assert beating.leases == []
        last, seen = expiry(ledger), len(beats)
        wait_until(lambda: len(beats) > seen + 2, "more heartbeats")
        assert expiry(ledger) == last
        assert not held.lost


def test_lost_lease_is_marked_and_not_renewed(redis_url: str) -> None:
    with beat(redis_url) as (beating, ledger):
        with beating.keep(acquire(ledger)) as held, beating.keep(acquire(ledger, 1)) as kept:
            ledger.client.zrem(LEASES, "0")
            successor = acquire(ledger)
            wait_until(lambda: held.lost, "the loss to be detected")
            assert not kept.lost
        assert ledger.release(successor)


def test_flushed_redis_marks_leases_lost(redis_url: str) -> None:
    with beat(redis_url) as (beating, ledger), beating.keep(acquire(ledger)) as held:
        ledger.client.flushall()
        wait_until(lambda: held.lost, "the loss to be detected")


def test_expired_lease_without_successor_is_renewed(redis_url: str) -> None:
    with beat(redis_url) as (beating, ledger), beating.keep(acquire(ledger)) as held:
        ledger.client.zadd(LEASES, {"0": 1})  # expired in 1970
        wait_until(lambda: expiry(ledger) > 1, "the lease to be renewed")
        assert not held.lost


def test_renewals_continue_after_a_redis_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missed = threading.Event()
    monkeypatch.setattr(heartbeat.log, "warning", lambda *_, **__: missed.set())
    with start_redis(tmp_path) as server, beat(server.url) as (beating, ledger), beating.keep(acquire(ledger)) as held:
        before = expiry(ledger)
        server.kill()
        wait_until(missed.is_set, "a renewal to fail")
        server.restart()
        wait_until(lambda: survives(lambda: expiry(ledger)) > before, "the lease to be renewed")
        assert not held.lost


def test_failing_duties_do_not_stop_the_heartbeat(redis_url: str) -> None:
    done: list[int] = []

    def fail() -> None:
        done.append(1)
        raise (RuntimeError("a bug") if len(done) % 2 else redis.ConnectionError("away"))

    with beat(redis_url, fail) as (beating, ledger), beating.keep(acquire(ledger)):
        first = expiry(ledger)
        wait_until(lambda: len(done) >= 4 and expiry(ledger) > first, "duties and renewals to continue")


def test_wait_until_idle_blocks_while_leases_are_held(redis_url: str) -> None:
    with beat(redis_url) as (beating, ledger):
        beating.wait_until_idle()
        waiter = threading.Thread(target=beating.wait_until_idle)
        with beating.keep(acquire(ledger)):
            with beating.keep(acquire(ledger, 1)):
                waiter.start()
            assert waiter.is_alive()
        waiter.join(timeout=20)
        assert not waiter.is_alive()


def test_exception_inside_keep_ends_renewal(redis_url: str) -> None:
    with beat(redis_url) as (beating, ledger):
        with pytest.raises(RuntimeError), beating.keep(acquire(ledger)):
            raise RuntimeError
        assert beating.leases == []


def test_worker_drains_once_when_its_launcher_exits(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signals: list[tuple[int, int]] = []
    beats: list[int] = []
    with beat(redis_url, lambda: beats.append(1)):
        monkeypatch.setattr("workers.recovery.lease_keeper.os.kill", lambda *given: signals.append(given))
        monkeypatch.setattr("workers.recovery.lease_keeper.os.getppid", lambda: 2**22 + 1)  # no process has this id
        wait_until(lambda: signals, "the signal")
        seen = len(beats)
        wait_until(lambda: len(beats) > seen + 2, "more heartbeats")
    assert signals == [(os.getpid(), signal.SIGTERM)]


def test_launcher_exit_before_first_heartbeat_is_detected(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr("workers.recovery.lease_keeper.os.kill", lambda *given: signals.append(given))
    with beat(redis_url, launcher=2**22 + 1):  # no process has this id
        wait_until(lambda: signals, "the signal")
    assert signals == [(os.getpid(), signal.SIGTERM)]


def survives(ask: Callable[[], float]) -> float:
    try:
        return ask()
    except redis.ConnectionError:
        return 0.0
