"""The ledger on faults: strikes, trials of single samples, aborted runs, cancelled runs, and runs that grow."""

from collections.abc import Iterator

import pytest

from common.errors import LeaseLost
from common.ledger.connection import connect_redis
from common.ledger.keys import run_keys, trial_key
from common.ledger.ledger import SUSPECT, Ledger, LedgerView
from common.records import Lease
from common.settings import Settings
from common.spec.models import AbortIf
from tests.support.ledger import DATASETS, RUN, make_chunk, make_part, make_plan
from tests.support.waiting import wait_until


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """Yield a ledger with a run of three chunks of four samples and leases of 50 ms."""
    chosen = Settings(redis_url=redis_url, lease_s=0.05, renew_s=0.01)
    with connect_redis(chosen) as client:
        ledger = Ledger(client, chosen)
        ledger.open_run(make_plan(), "tiny")
        yield ledger


def view(ledger: Ledger) -> LedgerView:
    found = ledger.view_run(RUN)
    assert found is not None
    return found


def acquire(ledger: Ledger, chunk: int = 0) -> Lease:
    """Lease a chunk as soon as it has no holder."""
    return wait_until(lambda: ledger.acquire(RUN, chunk, "gpu0@a"), "a lease")


def test_chunk_is_suspect_after_two_silent_holders(ledger: Ledger) -> None:
    assert [acquire(ledger).suspect for _ in range(4)] == [False, False, True, True]
    assert not acquire(ledger, 1).suspect


def test_chunk_with_engine_death_is_suspect_at_once(ledger: Ledger) -> None:
    assert ledger.release(acquire(ledger), blame=SUSPECT)
    assert acquire(ledger).suspect


def test_released_chunk_is_no_suspect_and_delayable(ledger: Ledger) -> None:
    for _ in range(4):
        assert ledger.release(acquire(ledger))
    lease = acquire(ledger)
    assert not lease.suspect
    assert ledger.release(lease, delay_s=60)
    assert ledger.acquire(RUN, 0, "gpu1@a") is None
    assert ledger.expire_leases(RUN) == []
    assert view(ledger).holders == {}
    assert 0 not in ledger.find_pending(RUN)


def test_begin_trial_counts_deaths_of_earlier_trials(ledger: Ledger) -> None:
    ends = ["crash", "drain", "journal", "crash"]
    crashes = []
    for end in ends:
        lease = acquire(ledger)
        crashes.append(ledger.begin_trial(lease, "0-1"))
        if end == "drain":
            ledger.release(lease)
        elif end == "journal":
            ledger.journal(lease, make_part(0, ["ok", "ok"]).outcomes[1:])
    lease = acquire(ledger)
    assert [*crashes, ledger.begin_trial(lease, "0-1")] == [0, 1, 1, 1, 2]
    assert ledger.begin_trial(lease, "0-2") == 0


def test_absolved_chunk_is_no_longer_suspect(ledger: Ledger) -> None:
    ledger.release(acquire(ledger), blame=SUSPECT)
    lease = acquire(ledger)
    ledger.absolve(lease)
    ledger.release(lease)
    assert not acquire(ledger).suspect


def test_former_holder_cannot_record_anything(ledger: Ledger) -> None:
    slow = acquire(ledger)
    acquire(ledger)
    with pytest.raises(LeaseLost):
        ledger.begin_trial(slow, "0-1")
    assert not ledger.release(slow, blame=SUSPECT)


def test_commit_deletes_the_trial(ledger: Ledger) -> None:
    ledger.release(acquire(ledger), blame=SUSPECT)
    ledger.begin_trial(acquire(ledger), "0-1")
    assert ledger.client.ttl(trial_key(RUN, 0)) > 0
    ledger.commit(make_chunk(0), make_part(0, ["ok"] * 4), DATASETS)
    assert not ledger.client.exists(trial_key(RUN, 0))


def test_failing_run_is_paused_with_numbers_and_error(ledger: Ledger) -> None:
    ledger.set_abort(RUN, AbortIf(failed_rate=0.5, after=8))
    ledger.commit(make_chunk(0), make_part(0, ["failed"] * 4), DATASETS)
    assert view(ledger).state == "running", "too few samples to abort"
    part = make_part(1, ["ok", "ok", "ok", "failed"])
    outcomes = [outcome.model_copy(update={"error_code": "media_missing"}) for outcome in part.outcomes]
    ledger.commit(make_chunk(1), part.model_copy(update={"outcomes": tuple(outcomes)}), DATASETS)
    ended = view(ledger)
    assert ended.state == "paused"
    assert ended.reason == "aborted: 5 of 8 samples failed (abort_if: failed_rate 0.5, after 8), lately with media_missing"
    assert ledger.acquire(RUN, 2, "gpu0@a") is None


def test_continued_run_is_not_aborted_again(ledger: Ledger) -> None:
    """A new ``set_abort`` enables the threshold again."""
    ledger.set_abort(RUN, AbortIf(failed_rate=0.5, after=1))
    ledger.commit(make_chunk(0), make_part(0, ["failed"] * 4), DATASETS)
    assert ledger.continue_run(RUN)
    ledger.commit(make_chunk(1), make_part(1, ["failed"] * 4), DATASETS)
    assert view(ledger).state == "running"
    ledger.set_abort(RUN, AbortIf(failed_rate=0.5, after=1))
    ledger.commit(make_chunk(1), make_part(1, ["failed"] * 4), DATASETS)
    assert view(ledger).state == "paused"


def test_other_pause_keeps_the_abort_threshold(ledger: Ledger) -> None:
    ledger.set_abort(RUN, AbortIf(failed_rate=0.5, after=1))
    ledger.pause_run(RUN, "look at this")
    ledger.continue_run(RUN)
    ledger.commit(make_chunk(0), make_part(0, ["failed"] * 4), DATASETS)
    assert view(ledger).state == "paused"


def test_last_chunk_ends_run_despite_failures(ledger: Ledger) -> None:
    ledger.set_abort(RUN, AbortIf(failed_rate=0.1, after=12))
    for number in range(3):
        ledger.commit(make_chunk(number), make_part(number, ["failed"] * 4), DATASETS)
    assert (view(ledger).state, view(ledger).reason) == ("done", "")


def test_cancelled_run_accepts_commits_and_can_continue(ledger: Ledger) -> None:
    lease = acquire(ledger)
    assert ledger.cancel_run(RUN, "enough")
    assert ledger.acquire(RUN, 1, "gpu0@a") is None
    assert not ledger.pause_run(RUN, "a fault of a worker does not undo a cancellation by the user")
    assert ledger.list_runs("tiny") == []
    ledger.journal(lease, make_part(0, ["ok"]).outcomes)
    ledger.commit(make_chunk(0), make_part(0, ["ok"] * 4), DATASETS)
    assert (view(ledger).state, view(ledger).chunks_done) == ("cancelled", 1)
    assert ledger.continue_run(RUN)
    assert ledger.list_runs("tiny") == [RUN]
    assert ledger.acquire(RUN, 1, "gpu0@a")


def test_cancelled_run_is_done_with_last_chunk(ledger: Ledger) -> None:
    for number in (0, 1):
        ledger.commit(make_chunk(number), make_part(number, ["ok"] * 4), DATASETS)
    ledger.cancel_run(RUN, "enough")
    ledger.commit(make_chunk(2), make_part(2, ["ok"] * 4), DATASETS)
    assert view(ledger).state == "done"
    assert not ledger.cancel_run(RUN, "too late")


def test_done_run_is_running_after_growth(ledger: Ledger) -> None:
    for number in range(3):
        ledger.commit(make_chunk(number), make_part(number, ["failed"] * 4), DATASETS)
    assert ledger.list_runs("tiny") == []
    assert ledger.acquire(RUN, 3, "gpu0@a") is None, "the chunk does not exist"
    for _ in range(2):
        assert not ledger.open_run(make_plan(), "tiny", chunks=5)
    assert not ledger.open_run(make_plan(), "tiny", chunks=4), "a producer with an older plan removes no chunks"
    assert (view(ledger).state, view(ledger).chunks) == ("running", 5)
    assert ledger.list_runs("tiny") == [RUN]
    assert ledger.find_pending(RUN) == [3, 4]
    assert ledger.read_done(RUN) == b"\1\1\1\0\0"
    assert ledger.read_done(RUN, start=3) == b"\0\0"
    again = make_chunk(3).model_copy(update={"scattered": (1, 4, 9, 11)})
    ledger.commit(again, make_part(3, ["ok", "invalid", "failed", "ok"]), DATASETS)
    assert ledger.read_states(RUN) == bytes([1, 3, 1, 1, 2, 1, 1, 1, 1, 1, 1, 3])
    ledger.commit(make_chunk(4).model_copy(update={"scattered": (4, 5, 6, 7)}), make_part(4, ["failed"] * 4), DATASETS)
    assert ledger.read_states(RUN)[4] == 2, "a worse outcome never replaces a better one"
    assert view(ledger).state == "done"


def test_commit_of_unknown_chunk_is_not_counted(ledger: Ledger) -> None:
    """Redis was killed within a second after the run grew, and lost that write. The run still ends."""
    for number in range(3):
        ledger.commit(make_chunk(number), make_part(number, ["failed"] * 4), DATASETS)
    again = make_chunk(3).model_copy(update={"scattered": (1, 4, 9, 11)})
    with pytest.raises(LeaseLost, match="no longer knows chunk 3"):
        ledger.commit(again, make_part(3, ["ok"] * 4), DATASETS)
    assert (view(ledger).state, view(ledger).chunks_done) == ("done", 3)
    assert ledger.read_done(RUN) == b"\1\1\1"
    assert ledger.read_states(RUN) == b"\1" * 12

    ledger.open_run(make_plan(), "tiny", chunks=4)
    assert (view(ledger).state, ledger.find_pending(RUN)) == ("running", [3])
    ledger.commit(again, make_part(3, ["ok"] * 4), DATASETS)
    assert (view(ledger).state, view(ledger).chunks_done, view(ledger).chunks) == ("done", 4, 4)
    assert ledger.read_states(RUN) == bytes([1, 3, 1, 1, 3, 1, 1, 1, 1, 3, 1, 3])


def test_growth_keeps_chunks_counted_before(ledger: Ledger) -> None:
    """A ledger of an earlier version may have counted chunks that it did not know."""
    for number in range(3):
        ledger.commit(make_chunk(number), make_part(number, ["failed"] * 4), DATASETS)
    run, chunks = run_keys(RUN).run, run_keys(RUN).chunks
    ledger.client.setrange(chunks, 3, b"\1")
    ledger.client.hincrby(run, "chunks_done", 1)
    ledger.open_run(make_plan(), "tiny", chunks=4)
    assert (view(ledger).state, ledger.read_done(RUN)) == ("done", b"\1" * 4)
    ledger.open_run(make_plan(), "tiny", chunks=5)
    assert (view(ledger).state, ledger.find_pending(RUN)) == ("running", [4])
    ledger.commit(make_chunk(4).model_copy(update={"scattered": (4, 5, 6, 7)}), make_part(4, ["ok"] * 4), DATASETS)
    assert (view(ledger).state, view(ledger).chunks_done) == ("done", 5)
