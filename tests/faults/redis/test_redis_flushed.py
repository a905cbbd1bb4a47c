"""Redis loses all data during a run: the ledger is rebuilt from the store."""

from collections import Counter

from common.storage.keys import parts_prefix
from tests.support.fleet import Fleet, make_rows
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until


def test_rebuild_after_flush_does_not_repeat_finished_chunks(fleet: Fleet) -> None:
    """The results equal those of a run without the loss."""
    options = {"delay_s": 0.05, "asked": str(fleet.folder / "asked")}
    fleet.write_profile("recording", engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
    spec = fleet.write_spec("recording", [fleet.write_dataset("rows", make_rows(400))], chunks={"max_samples": 16})
    run_id = fleet.enqueue(spec).run_id
    fleet.start_workers("recording", chunks_in_flight=2)
    wait_until(lambda: len(list(fleet.store.list_keys(parts_prefix(run_id)))) >= 5, "five parts")

    fleet.ledger.client.flushall()
    finished = set(fleet.store.list_keys(parts_prefix(run_id)))
    assert "was it flushed?" in fleet.run_producer("status", run_id, code=2)
    assert f"{run_id}: enqueued" in fleet.run_producer("resume", run_id, "--rebuild")

    assert fleet.wait_for_end(run_id).samples.ok == 400
    outcomes = assert_run_is_sound(fleet, run_id)
    assert {outcome.prediction for outcome in outcomes} == {"ok"}
    asked = Counter((fleet.folder / "asked").read_text().split())
    per_chunk = 16
    for key in sorted(finished):
        number = int(key[-16:-8])
        first = number * per_chunk
        assert {asked[outcome.sample_id] for outcome in outcomes[first : first + per_chunk]} == {1}, f"{key} ran again"
