"""Engines die, or libraries raise unexpected exceptions: the worker continues or restarts.

The run completes with correct results.
"""

from collections import Counter

import pytest

from tests.support.engines.faulty_engines import BASE_EXCEPTIONS
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

CHUNK_SAMPLES = 16


@pytest.mark.parametrize("exits", [False, True], ids=["raises EngineError", "ends its process"])
def test_worker_restarts_after_engine_death(clean_fleet: Fleet, exits: bool) -> None:
    fleet = clean_fleet
    options = {"asked": str(fleet.folder / "asked"), "died": str(fleet.folder / "died"), "exits": exits, "delay_s": 0.05}
    fleet.write_profile("mortal", engine="tests.support.engines.faulty_engines:DiesOnceEngine", engine_options=options)
    poison = {"id": "poison", "question": "poison?", "target": "ok"}
    run_id = enqueue_rows(fleet, "mortal", [*make_rows(99), poison], chunk=CHUNK_SAMPLES)
    # Leases much longer than the test: the worker of a dead engine must release its chunks.
    fleet.start_workers("mortal", chunks_in_flight=2, lease_s=3 if exits else 600)
    assert fleet.wait_for_end(run_id).samples.ok == 100
    outcomes = assert_run_is_sound(fleet, run_id)
    log = fleet.read_log()
    assert log.count("worker.started") == 2
    assert log.count("exit_code=70") == 1
    assert ("the GPU does not respond" in log) == (not exits)
    asked = Counter((fleet.folder / "asked").read_text().split())
    assert sum(asked.values()) - 100 <= 2 * CHUNK_SAMPLES, "only samples in flight may be sent again"
    assert max(asked.values()) == 2
    assert {len(outcome.attempts) for outcome in outcomes} == {1}


def test_base_exceptions_do_not_end_workers_or_slots(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    slots = 2
    fleet.write_profile("unruly", engine="tests.support.engines.faulty_engines:RaisingEngine", engine_options={"slots": slots})
    odd = [{"id": error.__name__, "question": f"raise {error.__name__}!", "target": "ok"} for error in BASE_EXCEPTIONS]
    run_id = enqueue_rows(fleet, "unruly", [*make_rows(96), *odd], chunk=4)
    fleet.start_workers("unruly", chunks_in_flight=slots)
    samples = fleet.wait_for_end(run_id).samples
    assert (samples.ok, samples.failed) == (96, len(odd))
    failed = {outcome.index: outcome for outcome in assert_run_is_sound(fleet, run_id) if outcome.status == "failed"}
    assert {index: one.error_code for index, one in failed.items()} == {row["id"]: "unexpected_error" for row in odd}
    assert {one.error_message for one in failed.values()} == {f"{row['id']}: in the engine" for row in odd}
    log = fleet.read_log()
    assert log.count("worker.started") == 1
    assert log.count("chunk.failed") == slots * len(BASE_EXCEPTIONS)
