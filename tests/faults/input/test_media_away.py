"""The file system with the images is unavailable for a time: samples do not fail, and the run continues afterwards."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.spec.models import ModelProfile
from tests.support.asked_samples import assert_not_asked_again, read_stored_counts
from tests.support.engines.dying_engine import RecordingEngine
from tests.support.fleet import Fleet, make_rows
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

COUNT = 40


class FaultyFilesEngine(RecordingEngine):
    """An engine whose process cannot open images while the file ``unmounted`` exists; ``error`` names the error number."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options = dict(profile.engine_options)
        self._unmounted, self._error = Path(options.pop("unmounted")), options.pop("error")
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def start(self) -> None:
        await super().start()
        really_open = os.open

        def open_if_mounted(path: Any, *given: Any, **options: Any) -> int:
            if str(path).endswith(".png") and self._unmounted.exists():
                raise OSError(self._error, os.strerror(self._error), path)
            return really_open(path, *given, **options)

        os.open = open_if_mounted


@pytest.mark.parametrize("error", ["ESTALE", "EMFILE"])
def test_unavailable_file_system_does_not_fail_samples(fleet: Fleet, error: str) -> None:
    unmounted = fleet.folder / "unmounted"
    options = {"delay_s": 0.3, "asked": str(fleet.folder / "asked"), "unmounted": str(unmounted), "error": getattr(errno, error)}
    fleet.write_profile("mounted", engine="tests.faults.input.test_media_away:FaultyFilesEngine", engine_options=options)
    Image.new("RGB", (8, 6), "red").save(fleet.folder / "a.png")
    rows = [{**row, "image": "a.png"} for row in make_rows(COUNT)]
    run_id = enqueue_rows(fleet, "mounted", rows, chunk=4)
    fleet.start_workers("mounted", chunks_in_flight=2)
    wait_until(lambda: fleet.status(run_id).samples.ok >= 8, "two chunks")

    unmounted.touch()
    stored = read_stored_counts(fleet, run_id)
    message = f"a.png: cannot be read now: {os.strerror(getattr(errno, error))}"
    wait_until(
        lambda: any(message in (worker.trouble or "") for worker in fleet.workers("mounted")), "a worker that reports the error"
    )
    status = fleet.status(run_id)
    assert (status.state, status.samples.failed, status.samples.invalid) == ("running", 0, 0)
    assert status.samples.ok < COUNT
    unmounted.unlink()

    assert fleet.wait_for_end(run_id).samples.ok == COUNT
    assert_run_is_sound(fleet, run_id)
    assert_not_asked_again(fleet, stored)
