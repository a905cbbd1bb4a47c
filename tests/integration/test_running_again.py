"""Retrying failed and invalid samples, and stopping a run: with real workers, as a user does it."""

import json
from typing import Any

from PIL import Image

from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

REFUSAL = "I'm sorry, I can't help with that."


def read_results(fleet: Fleet, run_id: str, *, code: int) -> dict[Any, Any]:
    """Run ``producer collect``; return the rows by their index."""
    fleet.run_producer("collect", run_id, "--out", str(fleet.folder / "out"), code=code)
    lines = (fleet.folder / "out" / "results.jsonl").read_text().splitlines()
    return {row["index"]: row for row in map(json.loads, lines)}


def test_retry_repeats_only_failed_and_invalid_samples(clean_fleet: Fleet) -> None:
    """Results show the attempts of both waves."""
    fleet = clean_fleet
    table = [{"match": "shy", "answers": [REFUSAL, REFUSAL, REFUSAL, "ok"]}, {"match": "stubborn", "answers": [REFUSAL]}]
    options = {"table": table, "asked": str(fleet.folder / "asked")}
    fleet.write_profile("moody", engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
    odd = [
        {"id": "lost", "question": "lost?", "target": "ok", "image": "lost.png"},
        {"id": "shy", "question": "shy?", "target": "ok"},
        {"id": "stubborn", "question": "stubborn?", "target": "ok"},
    ]
    validation = {"max_attempts": 2, "validators": ["non_empty", "no_refusal"]}
    run_id = enqueue_rows(fleet, "moody", [*make_rows(37), *odd], validation=validation, digest_media="never")
    fleet.start_workers("moody")
    samples = fleet.wait_for_end(run_id).samples
    assert (samples.ok, samples.invalid, samples.failed) == (37, 2, 1)
    first = read_results(fleet, run_id, code=1)
    asked_once = (fleet.folder / "asked").read_text().split()

    Image.new("RGB", (8, 8)).save(fleet.folder / "lost.png")
    assert "samples to be run again: 3" in fleet.run_producer("resume", run_id, "--retry", "failed,invalid")
    status = fleet.wait_for_end(run_id)
    assert (status.samples.ok, status.samples.invalid, status.samples.failed, status.retrying) == (39, 1, 0, 0)
    assert_run_is_sound(fleet, run_id)
    second = read_results(fleet, run_id, code=1)
    odd_ids = {first[row["id"]]["sample_id"] for row in odd}
    assert set((fleet.folder / "asked").read_text().split()[len(asked_once) :]) == odd_ids, "only these samples may be sent again"
    assert [second[str(number)] for number in range(37)] == [first[str(number)] for number in range(37)]

    lost = second["lost"]
    assert (lost["status"], lost["prediction"], lost["error_code"]) == ("ok", "ok", None)
    assert [(one["finish_reason"], one["violations"]) for one in lost["attempts"]] == [("error", ["media_missing"]), ("stop", [])]
    shy = second["shy"]
    assert (shy["status"], [one["response"] for one in shy["attempts"]]) == ("ok", [REFUSAL, REFUSAL, REFUSAL, "ok"])
    assert [one["number"] for one in shy["attempts"]] == [1, 2, 3, 4], "the retry ladder must continue where it ended"
    temperatures = [one["temperature"] for one in shy["attempts"]]
    assert temperatures == sorted(set(temperatures))
    stubborn = second["stubborn"]
    assert (stubborn["status"], len(stubborn["attempts"])) == ("invalid", 4)
    assert stubborn["response"] == first["stubborn"]["response"]

    assert "samples to be run again: 1" in fleet.run_producer("resume", run_id, "--retry", "invalid,failed")
    fleet.wait_for_end(run_id)
    assert len(read_results(fleet, run_id, code=1)["stubborn"]["attempts"]) == 6
    assert "no failed samples to run again" in fleet.run_producer("resume", run_id, "--retry", "failed")
    scores = json.loads(fleet.run_producer("evaluate", run_id, "--json", code=1))["overall"]
    assert (scores["ok"], scores["invalid"], scores["failed"], scores["retried"]) == (39, 1, 0, 2)
    assert scores["first_attempt_hits"] == 38, "the first answer counts, also after an attempt without an answer"


def test_cancelled_run_keeps_outcomes_and_can_resume(clean_fleet: Fleet) -> None:
    """The run stops after the chunks in flight."""
    fleet = clean_fleet
    options = {"delay_s": 0.1, "asked": str(fleet.folder / "asked")}
    fleet.write_profile("recording", engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
    run_id = enqueue_rows(fleet, "recording", make_rows(400), chunk=4)
    fleet.start_workers("recording", chunks_in_flight=2)
    wait_until(lambda: fleet.status(run_id).samples.ok >= 20, "some chunks")
    output = fleet.run_producer("cancel", run_id)
    assert "cancelled" in output
    asked_by_then = len((fleet.folder / "asked").read_text().split())
    wait_until(lambda: fleet.status(run_id).samples.in_flight == 0, "the chunks in flight to end")
    stopped = fleet.status(run_id)
    assert (stopped.state, stopped.reason) == ("cancelled", "by producer cancel")
    assert stopped.samples.ok + stopped.samples.unprocessed == 400
    assert len((fleet.folder / "asked").read_text().split()) <= asked_by_then + 2 * 4, "further chunks must not start"
    assert "cancelled" in fleet.run_producer("watch", run_id, code=1)
    enqueued = fleet.enqueue(fleet.folder / "recording.spec.yaml")
    assert (enqueued.state, enqueued.rung) == ("cancelled", 0)

    assert "enqueued" in fleet.run_producer("resume", run_id)
    fleet.wait_for_end(run_id)
    assert_run_is_sound(fleet, run_id)
    asked = (fleet.folder / "asked").read_text().split()
    assert len(asked) == len(set(asked)) == 400, "finished samples must not be sent again"
    assert f"run {run_id} is done; there is nothing to cancel" in fleet.run_producer("cancel", run_id, code=2)


def test_aborted_run_continues_only_after_resume(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    fleet.write_profile("echoing")
    rows = [{**row, "image": "nowhere.png"} if number % 2 else row for number, row in enumerate(make_rows(200))]
    run_id = enqueue_rows(fleet, "echoing", rows, chunk=4, digest_media="never", abort_if={"failed_rate": 0.3, "after": 40})
    fleet.start_workers("echoing", chunks_in_flight=1)
    stopped = fleet.wait_for_end(run_id)
    assert stopped.state == "paused"
    assert stopped.samples.unprocessed > 0
    output = fleet.run_producer("status", run_id)
    assert "aborted: " in output
    assert "samples failed (abort_if: failed_rate 0.3, after 40), most recently with media_missing" in output
    fleet.run_producer("resume", run_id)
    assert fleet.wait_for_end(run_id).samples.failed == 100
    assert_run_is_sound(fleet, run_id)
