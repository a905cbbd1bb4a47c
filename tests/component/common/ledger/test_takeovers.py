"""The chunks that the ledger offers for takeover, and the time until it offers them again."""

from collections.abc import Iterator

import pytest

from common.ledger.connection import connect_redis
from common.ledger.ledger import Ledger
from common.records import Lease
from common.settings import Settings
from tests.support.ledger import DATASETS, RUN, make_chunk, make_part, make_plan
from tests.support.waiting import wait_until


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """Yield a ledger with a run of three chunks. Its leases and the time between two offers are longer than the test."""
    chosen = Settings(redis_url=redis_url, lease_s=600)
    with connect_redis(chosen) as client:
        ledger = Ledger(client, chosen)
        ledger.open_run(make_plan(), "tiny")
        yield ledger


@pytest.fixture
def short_leases(redis_url: str, ledger: Ledger) -> Ledger:
    """Return a ledger of the same run with leases of 50 ms."""
    return Ledger(ledger.client, Settings(redis_url=redis_url, lease_s=0.05, renew_s=0.01))


def acquire(ledger: Ledger, chunk: int = 0, worker: str = "gpu0@a") -> Lease:
    lease = ledger.acquire(RUN, chunk, worker)
    assert lease is not None
    return lease


def test_expired_leases_can_be_excluded_from_the_offer(ledger: Ledger, short_leases: Ledger) -> None:
    stopped = acquire(short_leases, 0, "gpu0@stopped")
    assert ledger.release(acquire(ledger, 1))
    wait_until(lambda: 0 in ledger.find_pending(RUN), "a lease to expire")
    assert ledger.expire_leases(RUN, with_expired=False) == [1]
    assert ledger.expire_leases(RUN, with_expired=False) == []
    assert ledger.view_run(RUN).holders == {0: "gpu0@stopped"}, "the lease is unchanged"  # type: ignore[union-attr]
    assert ledger.renew(RUN, [stopped]) == []
    assert ledger.expire_leases(RUN) == []


def test_limit_does_not_count_excluded_expired_leases(ledger: Ledger, short_leases: Ledger) -> None:
    acquire(short_leases, 0)
    wait_until(lambda: 0 in ledger.find_pending(RUN), "a lease to expire")
    for chunk in (1, 2):
        ledger.release(acquire(ledger, chunk))
    assert len(ledger.expire_leases(RUN, limit=1, with_expired=False)) == 1
    assert len(ledger.expire_leases(RUN, limit=1, with_expired=False)) == 1
    assert ledger.expire_leases(RUN, limit=1, with_expired=False) == []
    assert ledger.expire_leases(RUN, limit=1) == [0]
    assert ledger.expire_leases(RUN, limit=1) == []


def test_reoffered_chunk_still_has_an_expired_lease(ledger: Ledger, short_leases: Ledger) -> None:
    """If expired leases are excluded, the chunk is not offered, even if the worker with the last offer did not begin it."""
    acquire(short_leases, 0)
    assert wait_until(lambda: ledger.expire_leases(RUN), "a lease to expire") == [0]
    ledger.offer_again(RUN, 0)
    assert ledger.expire_leases(RUN, with_expired=False) == []
    assert ledger.expire_leases(RUN) == [0]


def test_declined_chunk_is_offered_again_immediately(ledger: Ledger) -> None:
    ledger.release(acquire(ledger))
    for _ in range(3):
        assert ledger.expire_leases(RUN, with_expired=False) == [0]
        assert ledger.expire_leases(RUN) == []
        ledger.offer_again(RUN, 0)
    assert ledger.expire_leases(RUN) == [0]


def test_declining_an_unoffered_chunk_has_no_effect(ledger: Ledger) -> None:
    ledger.offer_again(RUN, 2)
    ledger.offer_again("no-such-run", 0)
    for chunk in (0, 1):
        ledger.release(acquire(ledger, chunk))
    assert sorted(ledger.expire_leases(RUN)) == [0, 1]
    successor = acquire(ledger, 0, "gpu1@a")
    ledger.commit(make_chunk(1), make_part(1, ["ok"] * 4), DATASETS)
    for chunk in (0, 1):
        ledger.offer_again(RUN, chunk)
    assert ledger.expire_leases(RUN) == []
    assert ledger.renew(RUN, [successor]) == []


def test_declined_chunk_with_renewed_lease_is_not_offered(ledger: Ledger, short_leases: Ledger) -> None:
    slow = acquire(short_leases, 0)
    assert wait_until(lambda: ledger.expire_leases(RUN), "a lease to expire") == [0]
    assert ledger.renew(RUN, [slow]) == []
    ledger.offer_again(RUN, 0)
    assert ledger.expire_leases(RUN) == []
