"""Many more images than fit into memory: the worker's memory stays near its budget for any content of the chunks."""

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.support.fleet import Fleet, make_rows
from tests.support.processes import read_memory_bytes
from tests.support.soundness import assert_run_is_sound
from tests.support.workers import enqueue_rows

SIZE = (4000, 3000)
DECODED_BYTES = 4 * SIZE[0] * SIZE[1]
COUNT = 36
BUDGET_MB = 256
SLACK_BYTES = 48 * 2**20  # files of samples that wait for admission, and the samples themselves


def write_photos(folder: Path) -> list[str]:
    """Write a large JPEG under one name for each sample; every sixth file is truncated in the middle."""
    photo, cut = folder / "photo", folder / "cut"
    Image.radial_gradient("L").convert("RGB").resize(SIZE).save(photo, "JPEG")
    cut.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    names = [f"{number}.jpg" for number in range(COUNT)]
    for number, name in enumerate(names):
        os.link(cut if number % 6 == 5 else photo, folder / name)
    return names


@pytest.mark.parametrize("bounds", [{}, {"max_pixels": 1_000_000}], ids=["original size", "scaled down"])
def test_many_large_images_stay_within_memory_budget(fleet: Fleet, bounds: dict[str, int]) -> None:
    names = write_photos(fleet.folder)
    fleet.write_profile("seeing", engine_options={"delay_s": 1.0}, media=bounds)
    fleet.start_workers("seeing", media_memory_mb=BUDGET_MB)
    fleet.wait_for_end(enqueue_rows(fleet, "seeing", make_rows(20)))  # imports every module and warms every cache
    (worker,) = fleet.workers("seeing")
    Path(f"/proc/{worker.pid}/clear_refs").write_text("5")  # resets the peak to the current size
    before = read_memory_bytes(worker.pid, "VmHWM")

    rows = [{"id": name, "question": f"{name}?", "target": "ok", "image": name} for name in names]
    run_id = enqueue_rows(fleet, "seeing", rows, chunk=COUNT // 3)  # three chunks in flight
    samples = fleet.wait_for_end(run_id).samples

    grown = read_memory_bytes(worker.pid, "VmHWM") - before
    assert (samples.ok, samples.failed) == (COUNT * 5 // 6, COUNT // 6)
    codes = {outcome.error_code for outcome in assert_run_is_sound(fleet, run_id) if outcome.status == "failed"}
    assert codes == {"media_corrupt"}
    assert COUNT * DECODED_BYTES > 6 * BUDGET_MB * 2**20, "the decoded images must exceed the budget many times"
    assert grown <= BUDGET_MB * 2**20 + SLACK_BYTES, f"grew by {grown / 2**20:.0f} MiB"
    assert [found.pid for found in fleet.workers("seeing")] == [worker.pid], "the same worker must still run"
