"""Folders, tars, COCO files, saved datasets and tables in one run: workers read exactly the media that each row names."""

import json
import tarfile
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value

from common.records import Outcome
from tests.support.fleet import Fleet
from tests.support.media.pictures import make_png, write_files
from tests.support.soundness import assert_run_is_sound

DESCRIBING = "tests.support.faults.bad_input.engine:DescribingEngine"
COLOURS = {"red": "8x8 #ff0000", "blue": "8x8 #0000ff", "lime": "8x8 #00ff00"}


def describe(outcomes: list[Outcome], dataset: str) -> dict[str, str | None]:
    return {outcome.index: outcome.error_code or outcome.response for outcome in outcomes if outcome.dataset == dataset}


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for colour in COLOURS:
            (path.parent / "member").write_bytes(make_png(colour))
            tar.add(path.parent / "member", f"{colour}.png")


def save_dataset(folder: Path) -> None:
    rows = [{"id": colour, "picture": {"bytes": make_png(colour) + b"\0" * 9000, "path": None}} for colour in COLOURS]
    Dataset.from_list(rows, features=Features({"id": Value("string"), "picture": Image()})).save_to_disk(folder)


def write_coco(folder: Path) -> None:
    images = [{"id": number, "file_name": f"{colour}.png"} for number, colour in enumerate(COLOURS)]
    annotations = [{"image_id": number, "caption": "x"} for number in range(3)]
    write_files(folder, {f"{colour}.png": make_png(colour) for colour in COLOURS})
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def test_rows_of_collections_are_sent_with_their_media(fleet: Fleet) -> None:
    data = fleet.folder / "data"
    write_files(data / "photos", {**{f"{colour}.png": make_png(colour) for colour in COLOURS}, "text.png": "not an image"})
    write_tar(data / "photos.tar")
    (data / "no.tar").write_text("not a tar")
    save_dataset(data / "saved")
    write_coco(data / "coco")
    query = {"id": 1, "FileName": "t", "Question": "Q?", "FinalAnswer": "x"}
    tables: dict[str, bytes | str] = {
        "QA_final.json": json.dumps({"queries": [query]}),
        "html/t.html": "<table>",
        "image/t.png": make_png("lime"),
    }
    write_files(data / "tables", tables)
    sources: list[dict[str, Any]] = [
        {"path": str(data / "photos"), "question": "What?"},
        {"path": str(data / "{photos,no}.tar"), "name": "shards", "question": "What?"},
        {"path": str(data / "saved"), "question": "What?"},
        {"path": str(data / "coco" / "captions.json"), "name": "coco", "format": "coco", "question": "What?"},
        {
            "path": str(data / "tables" / "QA_final.json"),
            "name": "tables",
            "format": "realhitbench",
            "table": {"format": "html", "image": True},
        },
    ]
    fleet.write_profile("seeing", engine=DESCRIBING)
    run_id = fleet.enqueue(fleet.write_spec("seeing", sources)).run_id
    fleet.start_workers("seeing")
    fleet.wait_for_end(run_id)
    assert_run_is_sound(fleet, run_id)
    outcomes = fleet.collect(run_id)
    assert describe(outcomes, "photos") == {f"{name}.png": seen for name, seen in COLOURS.items()} | {"text.png": "media_corrupt"}
    assert describe(outcomes, "shards") == {f"photos/{name}": seen for name, seen in COLOURS.items()} | {"no/": "bad_row"}
    assert describe(outcomes, "saved") == COLOURS
    assert describe(outcomes, "coco") == dict(zip("012", COLOURS.values(), strict=True))
    assert describe(outcomes, "tables") == {"1": COLOURS["lime"]}
