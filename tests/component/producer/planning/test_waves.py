"""Waves run exactly the requested samples again. The best outcome counts, and the attempts of every wave are kept."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from common.broker.app import make_app
from common.ledger.ledger import Ledger, LedgerView
from common.records import Attempt, Outcome, Status
from common.storage.keys import index_key
from common.storage.plan_index import read_chunk, read_index
from common.storage.run_record import load_planned_run
from producer.planning.waves import find_retried, plan_wave
from producer.results.collect import collect_outcomes, merge_outcomes
from producer.runs.control import Resumed, resume_run
from producer.runs.rebuild import commit_parts
from producer.runs.status import prepare_status
from tests.support.fleet import Fleet, make_rows
from tests.support.planning import put_part, run_chunks
from tests.support.soundness import assert_run_is_sound
from tests.support.workers import enqueue_rows

STATUSES: tuple[Status, ...] = ("ok", "failed", "ok", "invalid", "ok")


@pytest.fixture
def run_id(fleet: Fleet) -> str:
    """Return the id of a run of 40 samples in chunks of 8. The first 24 samples are finished, with statuses by STATUSES."""
    fleet.write_profile("quick")
    run_id = enqueue_rows(fleet, "quick", make_rows(40), chunk=8)
    index, ledger = read_index(fleet.store, run_id), fleet.ledger
    position = 0
    for number in range(3):
        rotated = [STATUSES[(position + at) % 5] for at in range(8)]
        put_part(fleet.store, index[number], statuses=rotated)
        position += 8
    ledger.forget_run(run_id)
    resume(fleet, run_id)
    return run_id


def resume(fleet: Fleet, run_id: str, *retry: str) -> Resumed:
    return resume_run(run_id, fleet.store, fleet.ledger, make_app(fleet.settings), retry=retry)


def expected(*statuses: str, below: int = 24) -> list[int]:
    return [position for position in range(below) if STATUSES[position % 5] in statuses]


@pytest.mark.parametrize("statuses", [("failed",), ("invalid",), ("failed", "invalid")])
def test_wave_holds_exactly_the_requested_statuses(fleet: Fleet, run_id: str, statuses: tuple[str, ...]) -> None:
    assert resume(fleet, run_id, *statuses).retried == len(expected(*statuses))
    index = read_index(fleet.store, run_id)
    assert [wave.number for wave in index.waves] == [1, 2]
    chunks = list(index.iterate_wave(index.waves[1]))
    assert [chunk.number for chunk in chunks] == list(range(5, 5 + len(chunks)))
    assert [position for chunk in chunks for position in chunk.positions] == expected(*statuses)
    assert max(chunk.count for chunk in chunks) <= 8
    planned = [sample.sample_id for number in range(5) for sample in read_chunk(fleet.store, index[number])]
    assert [sample.sample_id for chunk in chunks for sample in read_chunk(fleet.store, chunk)] == [
        planned[position] for position in expected(*statuses)
    ]


def test_pending_retries_are_not_planned_twice(fleet: Fleet, run_id: str) -> None:
    assert resume(fleet, run_id, "failed").retried == len(expected("failed"))
    assert resume(fleet, run_id, "failed").retried == 0
    assert resume(fleet, run_id, "failed", "invalid").retried == len(expected("invalid"))
    assert len(read_index(fleet.store, run_id).waves) == 3
    run_chunks(fleet, "quick", run_id)
    assert {outcome.status for outcome in assert_run_is_sound(fleet, run_id)} == {"ok"}
    assert resume(fleet, run_id, "failed", "invalid").retried == 0


def test_wave_survives_producer_death_before_ledger(fleet: Fleet, run_id: str) -> None:
    run = load_planned_run(fleet.store, run_id)
    positions = find_retried(run.index, fleet.ledger, ["failed"])
    assert plan_wave(run, positions, fleet.store)
    resumed = resume(fleet, run_id, "failed")
    assert resumed.retried == 0, "they wait in the wave of the producer that died"
    assert fleet.status(run_id).retrying == len(positions)
    run_chunks(fleet, "quick", run_id)
    assert_run_is_sound(fleet, run_id)


def test_concurrent_producers_plan_disjoint_waves(fleet: Fleet, run_id: str) -> None:
    run = load_planned_run(fleet.store, run_id)
    assert plan_wave(run, expected("failed"), fleet.store)
    assert not plan_wave(run, expected("failed", "invalid"), fleet.store)
    assert resume(fleet, run_id, "failed", "invalid").retried == len(expected("invalid"))
    run_chunks(fleet, "quick", run_id)
    assert_run_is_sound(fleet, run_id)


def test_retrying_is_counted_apart_from_states(fleet: Fleet, run_id: str) -> None:
    resume(fleet, run_id, "failed")
    again = len(expected("failed"))
    status = fleet.status(run_id)
    assert (status.retrying, status.samples.failed, status.samples.unprocessed) == (again, again, 16)
    lease = fleet.ledger.acquire(run_id, 5, "w@test")
    assert lease is not None
    held = fleet.status(run_id)
    assert (held.retrying, held.samples.in_flight, held.samples.failed) == (again, 0, again)
    fleet.ledger.release(lease)
    run_chunks(fleet, "quick", run_id)
    ended = fleet.status(run_id)
    assert (ended.state, ended.retrying, ended.samples.failed, ended.eta_s) == ("done", 0, 0, 0.0)


def test_status_during_growth_shows_the_old_state(fleet: Fleet, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resume(fleet, run_id, "failed")
    read_status = prepare_status(run_id, fleet.store, fleet.ledger)
    view_run = Ledger.view_run
    grown: list[str] = []

    def view_and_grow(ledger: Ledger, run_id: str) -> LedgerView | None:
        view = view_run(ledger, run_id)
        if not grown:
            grown.append(run_id)
            resume(fleet, run_id, "invalid")
        return view

    monkeypatch.setattr(Ledger, "view_run", view_and_grow)
    assert read_status().retrying == len(expected("failed"))
    assert grown
    assert read_status().retrying == len(expected("failed", "invalid"))


def test_rebuild_ignores_parts_of_unknown_waves(fleet: Fleet, run_id: str) -> None:
    run = load_planned_run(fleet.store, run_id)
    resume(fleet, run_id, "failed")
    put_part(fleet.store, read_index(fleet.store, run_id)[5])
    assert commit_parts(run, fleet.store, fleet.ledger) == 3
    run_chunks(fleet, "quick", run_id)
    assert_run_is_sound(fleet, run_id)


def test_waves_survive_a_flushed_redis(fleet: Fleet, run_id: str) -> None:
    resume(fleet, run_id, "failed", "invalid")
    run_chunks(fleet, "quick", run_id, [5])
    before = fleet.status(run_id).samples
    fleet.ledger.client.flushall()
    resume_run(run_id, fleet.store, fleet.ledger, make_app(fleet.settings), rebuild=True)
    assert fleet.status(run_id).samples == before
    run_chunks(fleet, "quick", run_id)
    assert_run_is_sound(fleet, run_id)


def test_repeated_enqueue_includes_the_waves(fleet: Fleet, run_id: str) -> None:
    resume(fleet, run_id, "failed")
    fleet.ledger.client.flushall()
    enqueued = fleet.enqueue(fleet.folder / "quick.spec.yaml")
    assert (enqueued.opened, enqueued.not_ok) == (True, len(expected("failed", "invalid")))
    run_chunks(fleet, "quick", run_id)
    assert_run_is_sound(fleet, run_id)


def test_damaged_index_of_wave_is_detected(fleet: Fleet, run_id: str) -> None:
    resume(fleet, run_id, "failed")
    path = Path(fleet.settings.store_url.removeprefix("file://")) / index_key(run_id, 2)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Exception, match=r"w2\.index\.parquet of a planned run cannot be read"):
        list(collect_outcomes(run_id, fleet.store))


# Merging


def make_outcome(status: Status, *responses: str, error: str | None = None) -> Outcome:
    attempts = tuple(Attempt(number=number, response=text) for number, text in enumerate(responses, start=1))
    prediction = responses[-1] if responses else None
    return Outcome(
        sample_id="s", dataset="d", index=0, model="m", status=status, attempts=attempts, prediction=prediction, error_code=error
    )


def list_attempts(attempts: Iterable[Attempt]) -> list[tuple[int, str, str | None, tuple[str, ...]]]:
    return [(attempt.number, attempt.response, attempt.finish_reason, attempt.violations) for attempt in attempts]


def test_merge_keeps_best_outcome_and_all_attempts() -> None:
    failed, invalid, ok = make_outcome("failed", error="media_missing"), make_outcome("invalid", "a", "b"), make_outcome("ok", "c")
    merged = merge_outcomes([failed, invalid, ok])
    assert (merged.status, merged.prediction, merged.error_code) == ("ok", "c", None)
    assert list_attempts(merged.attempts) == [
        (1, "", "error", ("media_missing",)),
        (2, "a", None, ()),
        (3, "b", None, ()),
        (4, "c", None, ()),
    ]


def test_equal_or_worse_outcome_only_adds_attempts() -> None:
    merged = merge_outcomes([make_outcome("invalid", "a"), make_outcome("invalid", "b"), make_outcome("failed", error="bad")])
    assert (merged.status, merged.prediction, merged.error_code) == ("invalid", "a", None)
    assert [attempt.response for attempt in merged.attempts] == ["a", "b", ""]


def test_outcome_of_single_wave_is_unchanged() -> None:
    failed = make_outcome("failed", error="media_missing")
    waiting = failed.model_copy(update={"status": "unprocessed"})
    assert merge_outcomes([failed, waiting]) is failed
    assert merge_outcomes([waiting, waiting]) is waiting
