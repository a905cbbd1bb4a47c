"""Redis dies or restarts under a running fleet: workers wait for it, and the samples in flight are not lost."""

from collections import Counter

import pytest

from common.storage.keys import parts_prefix
from tests.support.fleet import Fleet, make_rows
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_redis_restart_does_not_repeat_samples_in_flight(fleet: Fleet, how: str) -> None:
    options = {"delay_s": 0.3, "asked": str(fleet.folder / "asked")}
    fleet.write_profile("recording", engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
    spec = fleet.write_spec("recording", [fleet.write_dataset("rows", make_rows(320))], chunks={"max_samples": 16})
    run_id = fleet.enqueue(spec).run_id
    fleet.start_workers("recording", chunks_in_flight=2)
    wait_until(lambda: len(list(fleet.store.list_keys(parts_prefix(run_id)))) >= 3, "three parts")

    if how == "kill":
        fleet.server.kill()
    else:
        fleet.server.stop()
    fleet.server.restart()

    assert fleet.wait_for_end(run_id).samples.ok == 320
    assert_run_is_sound(fleet, run_id)
    asked = Counter((fleet.folder / "asked").read_text().split())
    assert sum(times > 1 for times in asked.values()) == 0
