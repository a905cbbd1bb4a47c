"""The ledger against a real Redis: one holder per chunk, and correct counts after duplicate or late messages."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import LeaseLost, ServiceUnreachable
from common.ledger.connection import connect_redis
from common.ledger.keys import journal_key, run_keys
from common.ledger.ledger import Ledger
from common.records import STATE_BYTES, Standing, Status
from common.settings import Settings
from common.spec.models import AbortIf
from tests.support.ledger import DATASETS, RUN, lose_answers, make_chunk, make_part, make_plan
from tests.support.servers.stalling_proxy import start_stalling_proxy
from tests.support.waiting import wait_until


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    chosen = Settings(redis_url=redis_url, lease_s=30)
    client = connect_redis(chosen)
    yield Ledger(client, chosen)
    client.close()


@pytest.fixture
def opened(ledger: Ledger) -> Ledger:
    ledger.open_run(make_plan(), "tiny")
    return ledger


def test_opening_a_run_is_idempotent(ledger: Ledger) -> None:
    assert ledger.open_run(make_plan(), "tiny")
    ledger.commit(make_chunk(0), make_part(0, ["ok"] * 4), DATASETS)
    before = ledger.view_run(RUN)
    assert not ledger.open_run(make_plan(), "tiny")
    after = ledger.view_run(RUN)
    assert before is not None
    assert after is not None
    assert after.counts == before.counts
    assert after.chunks_done == 1
    assert ledger.list_runs("tiny") == [RUN]


def test_opener_of_run_gets_true_after_retry(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The response of Redis may be lost. Only the producer that opens a run commits the parts that already exist."""
    lose_answers(monkeypatch, "open")
    assert ledger.open_run(make_plan(), "tiny")
    assert not ledger.open_run(make_plan(), "tiny"), "another producer, or a second call, does not open the run"
    ledger.forget_run(RUN)
    assert ledger.open_run(make_plan(), "tiny")


def test_retried_commands_are_idempotent(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_answers(monkeypatch, "extend", "set_abort", "acquire", "renew", "journal", "begin_trial", "commit", "set_state")
    ledger.open_run(make_plan(), "tiny", chunks=2)
    ledger.open_run(make_plan(), "tiny")
    ledger.set_abort(RUN, AbortIf(failed_rate=1.0, after=100))
    lease = ledger.acquire(RUN, 0, "gpu0@a")
    assert lease is not None
    assert lease.standing == Standing.FRESH
    assert ledger.renew(RUN, [lease]) == []
    ledger.begin_trial(lease, ["0-0"])
    ledger.journal(lease, make_part(0, ["ok"]).outcomes)
    ledger.commit(make_chunk(0), make_part(0, ["ok", "failed", "ok", "ok"]), DATASETS)
    view = ledger.view_run(RUN)
    assert view is not None
    assert (view.chunks_done, view.chunks, len(view.progress)) == (1, 3, 1)
    assert view.counts == {(1, "ok"): 2, (0, "failed"): 1, (0, "ok"): 1}
    assert ledger.pause_run(RUN, "look")
    assert ledger.continue_run(RUN)
    assert ledger.cancel_run(RUN, "enough")


def test_lease_is_renewed_despite_stalled_connection(redis_url: str, opened: Ledger) -> None:
    """After a failover, or when a NAT drops the connection, the connection stays open but responses do not arrive."""
    with start_stalling_proxy(redis_url) as (url, link):
        chosen = Settings(redis_url=url, lease_s=6)
        with connect_redis(chosen, patience_s=0) as client:
            holder = Ledger(client, chosen)
            lease = holder.acquire(RUN, 0, "gpu0@a")
            assert lease is not None
            link.stall()
            with ThreadPoolExecutor(1) as pool:
                renewed = pool.submit(holder.renew, RUN, [lease])
                ran_out = wait_until(
                    lambda: opened.expire_leases(RUN) or (renewed.done() and [-1]), "a renewal, or the end of the lease"
                )
            assert ran_out == [-1], "the renewal is too late"
            assert renewed.result() == []


def test_chunk_has_at_most_one_holder(opened: Ledger) -> None:
    first = opened.acquire(RUN, 0, "gpu0@a")
    assert first is not None
    assert opened.acquire(RUN, 0, "gpu1@a") is None
    assert opened.acquire("no-such-run", 0, "gpu1@a") is None
    view = opened.view_run(RUN)
    assert view is not None
    assert view.holders == {0: "gpu0@a"}


def test_only_holder_releases_a_chunk(opened: Ledger) -> None:
    lease = opened.acquire(RUN, 0, "gpu0@a")
    assert lease is not None
    assert not opened.release(lease.model_copy(update={"token": "other"}))
    assert opened.release(lease)
    assert opened.acquire(RUN, 0, "gpu1@a") is not None


def test_expired_lease_is_renewable_until_takeover(redis_url: str) -> None:
    chosen = Settings(redis_url=redis_url, lease_s=0.05, renew_s=0.01)
    ledger = Ledger(connect_redis(chosen), chosen)
    ledger.open_run(make_plan(), "tiny")
    slow = ledger.acquire(RUN, 0, "slow")
    assert slow is not None
    long_leases = Ledger(ledger.client, Settings(redis_url=redis_url, lease_s=600))  # does not offer a chunk twice within the test
    assert wait_until(lambda: long_leases.expire_leases(RUN), "an expired lease") == [0]
    assert long_leases.expire_leases(RUN) == []
    assert ledger.renew(RUN, [slow]) == []
    taken = wait_until(lambda: ledger.acquire(RUN, 0, "quick"), "a takeover")
    assert ledger.renew(RUN, [slow, taken]) == [slow]
    with pytest.raises(LeaseLost, match="no longer leased by this worker"):
        ledger.journal(slow, make_part(0, ["ok"]).outcomes)
    ledger.client.close()


def test_successor_reads_journal_and_commit_deletes_it(opened: Ledger) -> None:
    lease = opened.acquire(RUN, 1, "gpu0@a")
    assert lease is not None
    outcomes = make_part(1, ["ok", "failed", "ok", "invalid"]).outcomes
    opened.journal(lease, outcomes[:2])
    opened.release(lease)
    successor = opened.acquire(RUN, 1, "gpu1@a")
    assert successor is not None
    assert opened.read_journal(successor) == {outcome.sample_id: outcome for outcome in outcomes[:2]}
    assert opened.client.ttl(journal_key(RUN, 1)) > 0
    opened.commit(make_chunk(1), make_part(1, ["ok"] * 4), DATASETS)
    assert not opened.client.exists(journal_key(RUN, 1))
    assert opened.acquire(RUN, 1, "gpu0@a") is None


def test_paused_run_does_not_grant_leases(opened: Ledger) -> None:
    assert opened.pause_run(RUN, "part 3 is damaged")
    assert opened.acquire(RUN, 0, "gpu0@a") is None
    view = opened.view_run(RUN)
    assert view is not None
    assert (view.state, view.reason) == ("paused", "part 3 is damaged")
    assert opened.continue_run(RUN)
    assert opened.acquire(RUN, 0, "gpu0@a") is not None


def test_pending_chunks_are_neither_done_nor_leased(opened: Ledger) -> None:
    opened.acquire(RUN, 1, "gpu0@a")
    opened.commit(make_chunk(0), make_part(0, ["ok"] * 4), DATASETS)
    assert opened.find_pending(RUN) == [2]
    assert list(opened.iterate_pending(RUN)) == [2]


def test_every_pending_chunk_of_large_run_is_listed(ledger: Ledger) -> None:
    ledger.open_run(make_plan(chunks=150_000), "tiny")
    assert list(ledger.iterate_pending(RUN)) == list(range(150_000))


def test_last_commit_ends_and_unlists_the_run(opened: Ledger) -> None:
    for number in range(3):
        opened.commit(make_chunk(number), make_part(number, ["ok"] * 4), DATASETS)
    view = opened.view_run(RUN)
    assert view is not None
    assert view.state == "done"
    assert opened.list_runs("tiny") == []


def test_commit_to_unknown_run_raises_lease_lost(opened: Ledger) -> None:
    opened.client.flushall()
    with pytest.raises(LeaseLost, match="no record of"):
        opened.commit(make_chunk(0), make_part(0, ["ok"] * 4), DATASETS)
    assert not opened.client.exists(*run_keys(RUN))


def test_every_key_of_a_run_expires(opened: Ledger) -> None:
    lease = opened.acquire(RUN, 0, "gpu0@a")
    assert lease is not None
    opened.journal(lease, make_part(0, ["ok"]).outcomes)
    opened.commit(make_chunk(1), make_part(1, ["ok"] * 4), DATASETS)
    keys = [key for key in opened.client.scan_iter() if b"fleet:{" in key]
    assert len(keys) == 8
    assert all(opened.client.ttl(key) > 0 for key in keys)


statuses = st.lists(st.sampled_from(["ok", "invalid", "failed"]), min_size=4, max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deliveries=st.lists(st.tuples(st.integers(0, 2), statuses), min_size=1, max_size=12))
def test_best_outcome_wins_in_any_commit_order(ledger: Ledger, deliveries: list[tuple[int, list[Status]]]) -> None:
    ledger.client.flushall()
    ledger.open_run(make_plan(), "tiny")
    best = [0] * 12
    for number, given_statuses in deliveries:
        ledger.commit(make_chunk(number), make_part(number, given_statuses), DATASETS)
        for at, status in enumerate(given_statuses):
            best[number * 4 + at] = max(best[number * 4 + at], STATE_BYTES[status])
    view = ledger.view_run(RUN)
    assert view is not None
    assert ledger.read_states(RUN) == bytes(best)
    for name in ("ok", "invalid", "failed"):
        for dataset, parity in ((0, 1), (1, 0)):
            expected = sum(state == STATE_BYTES[name] for at, state in enumerate(best) if at % 4 % 2 == parity)
            assert view.counts.get((dataset, name), 0) == expected


def test_unreachable_redis_is_named_without_its_password() -> None:
    with pytest.raises(ServiceUnreachable, match=r"127\.0\.0\.1:1/0 does not answer") as caught:
        connect_redis(Settings(redis_url="redis://:secret@127.0.0.1:1/0"))
    assert "secret" not in str(caught.value)


def test_connect_redis_returns_a_client_that_answers(redis_url: str) -> None:
    client = connect_redis(Settings(redis_url=redis_url))
    assert isinstance(client, redis.Redis)
    client.close()
