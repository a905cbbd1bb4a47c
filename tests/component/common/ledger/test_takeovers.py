"""The ledger on chunks that nobody holds any more: whom they are named to, when, and when again."""

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
    """Yield a ledger that knows a run of three chunks; its leases outlast the test, and so does the time between two offers."""
    chosen = Settings(redis_url=redis_url, lease_s=600)
    with connect_redis(chosen) as client:
        ledger = Ledger(client, chosen)
        ledger.open_run(make_plan(), "tiny")
        yield ledger


@pytest.fixture
def impatient(redis_url: str, ledger: Ledger) -> Ledger:
    """Return a ledger of the same run whose leases last for a moment."""
    return Ledger(ledger.client, Settings(redis_url=redis_url, lease_s=0.05, renew_s=0.01))


def acquire(ledger: Ledger, chunk: int = 0, worker: str = "gpu0@a") -> Lease:
    lease = ledger.acquire(RUN, chunk, worker)
    assert lease is not None
    return lease


def test_only_what_was_given_back_is_named_unless_silent_holders_count(ledger: Ledger, impatient: Ledger) -> None:
    silent = acquire(impatient, 0, "gpu0@silent")
    assert ledger.release(acquire(ledger, 1))
    wait_until(lambda: 0 in ledger.find_pending(RUN), "a lease that ran out")
    assert ledger.expire_leases(RUN, of_silent=False) == [1]
    assert ledger.expire_leases(RUN, of_silent=False) == []
    assert ledger.view_run(RUN).holders == {0: "gpu0@silent"}, "it stays as it is"  # type: ignore[union-attr]
    assert ledger.renew(RUN, [silent]) == []
    assert ledger.expire_leases(RUN) == []


def test_a_limit_counts_what_is_named_and_not_the_silent_holders_before_it(ledger: Ledger, impatient: Ledger) -> None:
    acquire(impatient, 0)
    wait_until(lambda: 0 in ledger.find_pending(RUN), "a lease that ran out")
    for chunk in (1, 2):
        ledger.release(acquire(ledger, chunk))
    assert len(ledger.expire_leases(RUN, limit=1, of_silent=False)) == 1
    assert len(ledger.expire_leases(RUN, limit=1, of_silent=False)) == 1
    assert ledger.expire_leases(RUN, limit=1, of_silent=False) == []
    assert ledger.expire_leases(RUN, limit=1) == [0]
    assert ledger.expire_leases(RUN, limit=1) == []


def test_a_silent_holders_chunk_whose_successor_was_never_heard_of_waits_while_leases_tell_nothing(
    ledger: Ledger, impatient: Ledger
) -> None:
    acquire(impatient, 0)
    assert wait_until(lambda: ledger.expire_leases(RUN), "a lease that ran out") == [0]
    ledger.offer_again(RUN, 0)
    assert ledger.expire_leases(RUN, of_silent=False) == []
    assert ledger.expire_leases(RUN) == [0]


def test_a_chunk_that_its_successor_declines_is_named_again_at_once(ledger: Ledger) -> None:
    ledger.release(acquire(ledger))
    for _ in range(3):
        assert ledger.expire_leases(RUN, of_silent=False) == [0]
        assert ledger.expire_leases(RUN) == []
        ledger.offer_again(RUN, 0)
    assert ledger.expire_leases(RUN) == [0]


def test_declining_a_chunk_that_is_leased_done_or_was_never_named_offers_nothing(ledger: Ledger) -> None:
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


def test_a_declined_chunk_that_its_slow_holder_has_renewed_is_offered_no_more(ledger: Ledger, impatient: Ledger) -> None:
    slow = acquire(impatient, 0)
    assert wait_until(lambda: ledger.expire_leases(RUN), "a lease that ran out") == [0]
    assert ledger.renew(RUN, [slow]) == []
    ledger.offer_again(RUN, 0)
    assert ledger.expire_leases(RUN) == []
