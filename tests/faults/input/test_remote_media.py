"""Media in object storage that a worker cannot read: faults of one sample, and an outage that is no sample's fault."""

import json
from pathlib import Path

import pytest

from tests.support.faults.faulty_s3 import FaultyS3, answer, faulty_s3
from tests.support.fleet import Fleet, make_rows
from tests.support.media.pictures import make_png
from tests.support.servers.s3_server import upload_file
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until

__all__ = ["faulty_s3"]  # a fixture

COUNT = 24
DESCRIBING = "tests.support.faults.bad_input.engine:DescribingEngine"


def write_rows(address: str, images: dict[str, str]) -> None:
    rows = [{"id": name, "question": f"What is {name}?", "image": image} for name, image in images.items()]
    upload_file(address, "".join(json.dumps(row) + "\n" for row in rows).encode())


def test_fault_of_an_object_is_its_samples_fault(fleet: Fleet, faulty_s3: FaultyS3, s3_url: str) -> None:
    data = f"{s3_url}/data"
    for name in ("good", "changed", "denied", "gone", "long", "empty"):
        upload_file(f"{data}/{name}.png", make_png() if name != "empty" else b"")
    upload_file(f"{s3_url}/secret.png", make_png())
    images = {name: f"{name}.png" for name in ("good", "changed", "denied", "gone", "long", "empty", "missing")}
    outside = {
        "outside": "../secret.png",
        "elsewhere": f"{s3_url}/secret.png",
        "address": f"{data}/x/../good.png",
        "local": "/a.png",
    }
    write_rows(f"{data}/rows.jsonl", images | outside)
    fleet.write_profile("seeing", engine=DESCRIBING)
    run_id = fleet.enqueue(fleet.write_spec("seeing", [{"path": f"{data}/rows.jsonl"}])).run_id
    upload_file(f"{data}/changed.png", make_png("blue"))
    faulty_s3.inject(answer(403, "AccessDenied"), "denied")
    faulty_s3.inject(answer(404, "NoSuchKey"), "gone")
    faulty_s3.inject(answer(400, "KeyTooLongError"), "long")
    fleet.start_workers("seeing")
    fleet.wait_for_end(run_id)
    outcomes = {outcome.index: outcome for outcome in assert_run_is_sound(fleet, run_id)}
    assert {index: outcome.error_code or outcome.status for index, outcome in outcomes.items()} == {
        "good": "ok",
        "address": "ok",
        "changed": "media_changed",
        "denied": "media_unreadable",
        "gone": "media_missing",
        "long": "media_unreadable",
        "missing": "media_missing",
        "empty": "media_corrupt",
        "outside": "media_forbidden",
        "elsewhere": "media_forbidden",
        "local": "media_forbidden",
    }
    assert "denied.png: cannot be read: Permission denied; check" in (outcomes["denied"].error_message or "")


def test_commands_read_addresses_and_name_an_outage(fleet: Fleet, faulty_s3: FaultyS3, s3_url: str) -> None:
    upload_file(f"{s3_url}/a.png", make_png())
    write_rows(f"{s3_url}/rows.jsonl", {"a": "a.png"})
    spec = fleet.write_spec(fleet.write_profile("echo"), [{"path": f"{s3_url}/rows.jsonl"}])
    shown = json.loads(fleet.run_producer("inspect", f"{s3_url}/rows.jsonl", "--json"))
    assert (shown["format"], shown["rows"], shown["files"][0]["path"]) == ("jsonl", 1, f"{s3_url}/rows.jsonl")
    assert shown["first_rows"][0]["media"][0]["width"] == 8
    assert '"rows": 1' in fleet.run_producer("enqueue", str(spec), "--dry-run", "--json")
    assert f"no file '{s3_url}/no.jsonl'" in fleet.run_producer("inspect", f"{s3_url}/no.jsonl", code=2)
    faulty_s3.shut()
    assert "the store does not answer" in fleet.run_producer("enqueue", str(spec), "--dry-run", code=3)


@pytest.mark.parametrize("dataset", ["local", "remote"])
def test_outage_of_the_storage_does_not_fail_samples(
    fleet: Fleet, faulty_s3: FaultyS3, s3_url: str, tmp_path: Path, dataset: str
) -> None:
    names = [f"{number}.png" for number in range(COUNT)]
    for name in names:
        upload_file(f"{s3_url}/{name}", make_png())
    rows = [{**row, "image": name} for row, name in zip(make_rows(COUNT), names, strict=True)]
    path = fleet.write_dataset("rows", rows)
    if dataset == "remote":
        upload_file(f"{s3_url}/rows.jsonl", path.read_bytes())
    fleet.write_profile("seeing", engine=DESCRIBING)
    source = {"path": f"{s3_url}/rows.jsonl"} if dataset == "remote" else {"path": str(path), "media_root": s3_url}
    run_id = fleet.enqueue(fleet.write_spec("seeing", [source], chunks={"max_samples": 4})).run_id

    faulty_s3.shut()
    fleet.start_workers("seeing")
    message = "the store does not answer"
    wait_until(lambda: any(message in (one.trouble or "") for one in fleet.workers("seeing")), "a worker that reports the outage")
    status = fleet.status(run_id)
    assert (status.state, status.samples.failed, status.samples.ok) == ("running", 0, 0)
    faulty_s3.open()
    assert fleet.wait_for_end(run_id).samples.ok == COUNT
    assert_run_is_sound(fleet, run_id)
