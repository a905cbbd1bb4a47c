"""A run of datasets and media in object storage has the id, the requests and the results of the same run on a local disk."""

import base64
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value

from common.spec.files import read_specs
from producer.datasets.survey import survey_specs
from producer.planning.requests import read_requests
from tests.support.fleet import Fleet, start_fleet
from tests.support.media.pictures import make_png, write_files
from tests.support.servers.s3_server import upload_folder
from tests.support.soundness import assert_run_is_sound

DESCRIBING = "tests.support.faults.bad_input.engine:DescribingEngine"
COLOURS = {"red": "8x8 #ff0000", "lime": "8x8 #00ff00", "blue": "8x8 #0000ff"}
PADDING = b"\0" * 9000  # images of this size are byte ranges of their file
QUESTION = "What is in the image?"


def write_data(folder: Path) -> None:
    rows = [{"id": colour, "question": "Q?", "image": f"images/{colour}.png"} for colour in COLOURS]
    table = "index\tquestion\timage\n" + "".join(
        f"{colour}\tQ?\t{base64.b64encode(make_png(colour) + PADDING).decode()}\n" for colour in COLOURS
    )
    pictures = {f"{colour}.png": make_png(colour) for colour in COLOURS}
    write_files(folder / "images", pictures)
    write_files(folder / "photos", {**pictures, "text.png": "not an image"})
    write_files(folder, {"rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows), "embedded.tsv": table})
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for colour in COLOURS:
            tar.add(folder / "images" / f"{colour}.png", f"{colour}.png")
    saved = [{"id": colour, "picture": {"bytes": make_png(colour) + PADDING, "path": None}} for colour in COLOURS]
    Dataset.from_list(saved, features=Features({"id": Value("string"), "picture": Image()})).save_to_disk(folder / "saved")


def list_sources(root: str) -> list[dict[str, Any]]:
    paths = ("rows.jsonl", "embedded.tsv", "photos", "shard.tar", "saved")
    return [{"path": f"{root}/{path}", "question": QUESTION} for path in paths]


def run(fleet: Fleet, root: str) -> tuple[str, dict[tuple[str, str], str | None], dict[tuple[str, str], str | None]]:
    """Return the run id, the request digests, and the outcome of each sample."""
    fleet.write_profile("seeing", engine=DESCRIBING)
    spec_path = fleet.write_spec("seeing", list_sources(root), chunks={"max_samples": 4})
    (spec,), _ = survey_specs(read_specs(spec_path))
    digests = {(sample.dataset, sample.index): sample.request_digest for sample in read_requests(spec)}
    run_id = fleet.enqueue(spec_path).run_id
    fleet.start_workers("seeing")
    fleet.wait_for_end(run_id)
    outcomes = assert_run_is_sound(fleet, run_id)
    return run_id, digests, {(one.dataset, one.index): one.error_code or one.response for one in outcomes}


def test_remote_run_equals_the_local_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_url: str) -> None:
    write_data(tmp_path / "data")
    upload_folder(tmp_path / "data", f"{s3_url}/data")
    runs = []
    for name, root in (("local", str(tmp_path / "data")), ("remote", f"{s3_url}/data")):
        (tmp_path / name).mkdir()
        with start_fleet(tmp_path / name, monkeypatch) as fleet:
            runs.append(run(fleet, root))
    local, remote = runs
    assert remote == local
    for dataset in ("rows", "embedded", "shard", "saved"):
        seen = {index.rpartition("/")[2]: outcome for (name, index), outcome in remote[2].items() if name == dataset}
        assert seen == COLOURS
    assert remote[2]["photos", "text.png"] == "media_corrupt"
