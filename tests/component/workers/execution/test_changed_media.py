"""A sample whose picture changes after planning fails with a named error, and is not sent to the engine."""

from pathlib import Path

from PIL import Image

from tests.support.fleet import Fleet
from tests.support.planning import run_chunks


def draw(path: Path, colour: str) -> None:
    Image.new("RGB", (8, 8), colour).save(path)


def test_sample_with_changed_picture_is_not_sent(fleet: Fleet) -> None:
    fleet.write_profile("echo")
    for name in ("kept", "changed"):
        draw(fleet.folder / f"{name}.png", "red")
    rows = [{"id": name, "question": f"{name}?", "image": f"{name}.png"} for name in ("kept", "changed")]
    spec_path = fleet.write_spec("echo", [fleet.write_dataset("rows", rows)])
    run_id = fleet.enqueue(spec_path).run_id
    draw(fleet.folder / "changed.png", "blue")
    run_chunks(fleet, "echo", run_id)
    outcomes = {outcome.index: outcome for outcome in fleet.collect(run_id)}
    assert outcomes["kept"].status == "ok"
    assert (outcomes["changed"].status, outcomes["changed"].error_code) == ("failed", "media_changed")
    assert "changed.png: its content has changed since the run was planned" in str(outcomes["changed"].error_message)

    assert fleet.enqueue(spec_path).run_id != run_id
    draw(fleet.folder / "changed.png", "red")
    fleet.run_producer("resume", run_id, "--retry", "failed")
    run_chunks(fleet, "echo", run_id)
    assert {outcome.status for outcome in fleet.collect(run_id)} == {"ok"}
