"""How the ledger handles faults: strikes, quarantine, aborted runs, cancelled runs, and extended runs."""

import os
from collections.abc import Iterator

import pytest

from common.deaths import DeathCause
from common.errors import LeaseLost
from common.ledger.connection import connect_redis
from common.ledger.keys import run_keys, trial_key
from common.ledger.ledger import Ledger, LedgerView
from common.records import Lease, Standing
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


@pytest.fixture
def patient(ledger: Ledger, redis_url: str) -> Ledger:
    """Return a ledger of the same run with leases that are longer than the test."""
    return Ledger(ledger.client, Settings(redis_url=redis_url, lease_s=600))


def view(ledger: Ledger) -> LedgerView:
    found = ledger.view_run(RUN)
    assert found is not None
    return found


def acquire(ledger: Ledger, chunk: int = 0) -> Lease:
    """Lease a chunk as soon as it is available."""
    return wait_until(lambda: ledger.acquire(RUN, chunk, "gpu0@a"), "a lease")


def test_second_attributed_death_quarantines_a_chunk(ledger: Ledger) -> None:
    standings = []
    for cause in (DeathCause.CRASH, DeathCause.OUT_OF_MEMORY, None):
        lease = acquire(ledger)
        standings.append(lease.standing)
        assert ledger.release(lease, death=cause)
    assert standings == [Standing.FRESH, Standing.STRUCK, Standing.QUARANTINED]
    assert acquire(ledger, 1).standing == Standing.FRESH


@pytest.mark.parametrize("is_reported", [True, False])
def test_fifth_consecutive_loss_quarantines_a_chunk(ledger: Ledger, is_reported: bool) -> None:
    standings = []
    for _ in range(6):
        lease = acquire(ledger)
        standings.append(lease.standing)
        if is_reported:
            ledger.release(lease, death=DeathCause.KILL)
    assert standings == [Standing.FRESH] * 5 + [Standing.QUARANTINED]


def test_journal_entry_resets_the_loss_count(ledger: Ledger) -> None:
    """A cluster with preemption may kill many holders of a slow chunk, but each holder adds some outcomes."""
    for number in range(12):
        lease = acquire(ledger)
        assert lease.standing == Standing.FRESH
        ledger.journal(lease, make_part(0, ["ok"] * 4).outcomes[number % 4 :][:1])
        ledger.release(lease, death=DeathCause.KILL)


def test_released_chunk_is_without_strikes_and_can_wait(ledger: Ledger) -> None:
    for _ in range(6):
        assert ledger.release(acquire(ledger))
    lease = acquire(ledger)
    assert lease.standing == Standing.FRESH
    assert ledger.release(lease, delay_s=60)
    assert ledger.acquire(RUN, 0, "gpu1@a") is None
    assert ledger.expire_leases(RUN) == []
    assert view(ledger).holders == {}
    assert 0 not in ledger.find_pending(RUN)


def strike(ledger: Ledger, chunk: int, times: int) -> None:
    for _ in range(times):
        ledger.release(acquire(ledger, chunk), death=DeathCause.CRASH)


def test_struck_chunk_is_offered_only_to_other_workers(patient: Ledger) -> None:
    strike(patient, 0, times=1)
    assert patient.expire_leases(RUN, takes_struck=False) == []
    assert patient.acquire(RUN, 0, "gpu0@a", takes_struck=False) is None
    assert patient.expire_leases(RUN, takes_struck=False) == []
    assert patient.expire_leases(RUN) == [0], "it is offered immediately"
    assert patient.acquire(RUN, 0, "gpu1@a") is not None


def test_one_struck_chunk_is_offered_at_a_time(patient: Ledger) -> None:
    for chunk in range(3):
        strike(patient, chunk, times=1)
    assert [len(patient.expire_leases(RUN)) for _ in range(4)] == [1, 1, 1, 0]


def test_one_quarantined_chunk_is_leased_at_a_time(patient: Ledger) -> None:
    for chunk in (0, 1):
        strike(patient, chunk, times=2)
    strike(patient, 2, times=1)
    serving = acquire(patient, 0)
    assert patient.acquire(RUN, 1, "gpu1@a") is None
    assert patient.expire_leases(RUN) == [2], "a struck chunk does not belong to the quarantine"
    assert patient.count_cleared(RUN) == {0: 0, 1: 0}
    patient.journal(serving, make_part(0, ["ok"] * 4).outcomes)
    assert patient.count_cleared(RUN) == {0: 4, 1: 0}
    patient.commit(make_chunk(0), make_part(0, ["ok"] * 4), DATASETS)
    assert patient.acquire(RUN, 1, "gpu1@a") is not None
    assert patient.count_cleared(RUN) == {1: 0}


def test_repeated_refusal_does_not_change_the_expired_lease(ledger: Ledger, patient: Ledger) -> None:
    strike(patient, 0, times=1)
    expired = acquire(ledger)
    wait_until(lambda: 0 in ledger.find_pending(RUN), "the lease to expire")
    for _ in range(3):
        assert patient.acquire(RUN, 0, "gpu1@a", takes_struck=False) is None
    assert ledger.renew(RUN, [expired]) == [], "no worker has taken the chunk over"


def test_deaths_count_against_the_running_group(patient: Ledger) -> None:
    strike(patient, 0, times=2)
    groups: list[tuple[list[str], DeathCause | None]] = [
        (["0-0", "0-1"], DeathCause.CRASH),
        (["0-1"], DeathCause.STALL),
        (["0-1"], DeathCause.KILL),
        (["0-0"], None),  # released in a drain
        ([], DeathCause.CRASH),  # the control
        (["0-1"], DeathCause.STALL),
    ]
    for group, death in groups:
        lease = acquire(patient)
        patient.begin_trial(lease, group)
        patient.release(lease, death=death)
    lease = acquire(patient)
    assert patient.read_deaths(lease) == {
        ("0-0", "0-1"): {DeathCause.CRASH: 1},
        ("0-1",): {DeathCause.STALL: 2, DeathCause.KILL: 1},
    }
    patient.forget_deaths(lease, ["0-1"])
    assert patient.read_deaths(lease) == {("0-0", "0-1"): {DeathCause.CRASH: 1}}


def test_death_after_a_group_counts_only_against_that_group(patient: Ledger) -> None:
    strike(patient, 0, times=2)
    lease = acquire(patient)
    patient.begin_trial(lease, ["0-3"])
    patient.journal(lease, make_part(0, ["ok"] * 4).outcomes)
    patient.release(lease, death=DeathCause.KILL)
    assert patient.read_deaths(acquire(patient)) == {("0-3",): {DeathCause.KILL: 1}}


def test_exited_process_releases_only_its_chunks(patient: Ledger) -> None:
    ours, other = acquire(patient, 0), patient.acquire(RUN, 1, "gpu1@a")
    assert other is not None
    assert patient.release_dead("tiny", "gpu0@a", os.getpid() + 1, DeathCause.CRASH) == 0, "another process of that name"
    assert [patient.release_dead("tiny", "gpu0@a", os.getpid(), DeathCause.CRASH) for _ in range(2)] == [1, 0]
    assert view(patient).holders == {1: "gpu1@a"}
    assert patient.renew(RUN, [ours, other]) == [ours]
    assert patient.expire_leases(RUN) == [0]
    assert acquire(patient).standing == Standing.STRUCK


def test_former_holder_cannot_change_the_chunk(ledger: Ledger) -> None:
    slow = acquire(ledger)
    acquire(ledger)
    with pytest.raises(LeaseLost):
        ledger.begin_trial(slow, ["0-1"])
    assert not ledger.release(slow, death=DeathCause.CRASH)


def test_commit_deletes_strikes_and_trials(ledger: Ledger) -> None:
    strike(ledger, 0, times=2)
    ledger.begin_trial(acquire(ledger), ["0-1"])
    assert ledger.client.ttl(trial_key(RUN, 0)) > 0
    ledger.commit(make_chunk(0), make_part(0, ["ok"] * 4), DATASETS)
    assert not ledger.client.exists(trial_key(RUN, 0), run_keys(RUN).strikes, run_keys(RUN).losses)
    assert ledger.count_cleared(RUN) == {}


def test_pause_reason_states_counts_and_last_error(ledger: Ledger) -> None:
    ledger.set_abort(RUN, AbortIf(failed_rate=0.5, after=8))
    ledger.commit(make_chunk(0), make_part(0, ["failed"] * 4), DATASETS)
    assert view(ledger).state == "running", "too few samples to abort"
    part = make_part(1, ["ok", "ok", "ok", "failed"])
    outcomes = [outcome.model_copy(update={"error_code": "media_missing"}) for outcome in part.outcomes]
    ledger.commit(make_chunk(1), part.model_copy(update={"outcomes": tuple(outcomes)}), DATASETS)
    ended = view(ledger)
    assert ended.state == "paused"
    assert ended.reason == "aborted: 5 of 8 samples failed (abort_if: failed_rate 0.5, after 8), most recently with media_missing"
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


def test_manual_pause_keeps_the_abort_threshold(ledger: Ledger) -> None:
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


def test_extended_done_run_is_running_again(ledger: Ledger) -> None:
    for number in range(3):
        ledger.commit(make_chunk(number), make_part(number, ["failed"] * 4), DATASETS)
    assert ledger.list_runs("tiny") == []
    assert ledger.acquire(RUN, 3, "gpu0@a") is None, "the chunk does not exist"
    for _ in range(2):
        assert not ledger.open_run(make_plan(), "tiny", chunks=5)
    assert not ledger.open_run(make_plan(), "tiny", chunks=4), "a producer with an older plan does not remove chunks"
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
    """Redis was killed within a second of the write that added the chunk, and lost that write. The run still ends."""
    for number in range(3):
        ledger.commit(make_chunk(number), make_part(number, ["failed"] * 4), DATASETS)
    again = make_chunk(3).model_copy(update={"scattered": (1, 4, 9, 11)})
    with pytest.raises(LeaseLost, match="no record of chunk 3"):
        ledger.commit(again, make_part(3, ["ok"] * 4), DATASETS)
    assert (view(ledger).state, view(ledger).chunks_done) == ("done", 3)
    assert ledger.read_done(RUN) == b"\1\1\1"
    assert ledger.read_states(RUN) == b"\1" * 12

    ledger.open_run(make_plan(), "tiny", chunks=4)
    assert (view(ledger).state, ledger.find_pending(RUN)) == ("running", [3])
    ledger.commit(again, make_part(3, ["ok"] * 4), DATASETS)
    assert (view(ledger).state, view(ledger).chunks_done, view(ledger).chunks) == ("done", 4, 4)
    assert ledger.read_states(RUN) == bytes([1, 3, 1, 1, 3, 1, 1, 1, 1, 3, 1, 3])


def test_extended_run_keeps_finished_chunks(ledger: Ledger) -> None:
    """A ledger of an earlier version may have counted chunks that the run did not contain."""
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
