"""A dataset in object storage gives the samples of the same dataset on a local disk, in every format."""

import base64
import gzip
import json
import tarfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from pyarrow import feather, parquet

from common.spec.dataset_paths import resolve_dataset
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from producer.datasets.readers import lines
from producer.datasets.survey import Survey, survey_dataset
from tests.support.faults.bad_input import formats, places, references, tables
from tests.support.faults.bad_input.cases import RowCase, slugify
from tests.support.faults.bad_input.rows import LONGEST_LINE_BYTES
from tests.support.media.pictures import make_png, write_files
from tests.support.servers.s3_server import upload_folder

COLOURS = ("red", "lime", "blue")
PADDING = b"\0" * 9000  # images of this size are byte ranges
ROWS = [{"id": colour, "question": f"Q {colour}?", "answer": colour, "image": f"images/{colour}.png"} for colour in COLOURS]
QUESTION = {"question": "What is in the image?"}

Write = Callable[[Path], dict[str, Any]]


def embed(colour: str) -> str:
    return base64.b64encode(make_png(colour) + PADDING).decode()


def write_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_table(delimiter: str, image: Callable[[str], str]) -> bytes:
    lines = [delimiter.join(("index", "question", "answer", "image"))]
    lines += [delimiter.join((colour, f"Q {colour}?", colour, image(colour))) for colour in COLOURS]
    return "\n".join([*lines, ""]).encode()


def compress_zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


def write_jsonl(folder: Path) -> dict[str, Any]:
    write_files(folder, {"rows.jsonl": write_lines(ROWS)})
    return {"path": "rows.jsonl"}


def write_packed_lines(folder: Path) -> dict[str, Any]:
    write_files(folder, {"a.jsonl.gz": gzip.compress(write_lines(ROWS)), "b.jsonl.zst": compress_zstd(write_lines(ROWS))})
    return {"path": ["a.jsonl.gz", "b.jsonl.zst"], "name": "packed", "readers": 2}


def write_embedded_lines(folder: Path) -> dict[str, Any]:
    rows = [{**row, "image": f"data:image/png;base64,{embed(str(row['id']))}"} for row in ROWS]
    write_files(folder, {"rows.jsonl": write_lines(rows)})
    return {"path": "rows.jsonl"}


def write_json(folder: Path) -> dict[str, Any]:
    write_files(folder, {"rows.json": json.dumps(ROWS)})
    return {"path": "rows.json"}


def write_json_columns(folder: Path) -> dict[str, Any]:
    write_files(folder, {"rows.json": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]})})
    return {"path": "rows.json"}


def write_csv(folder: Path) -> dict[str, Any]:
    write_files(folder, {"rows.csv": write_table(",", "images/{}.png".format)})
    return {"path": "rows.csv"}


def write_tsv(folder: Path) -> dict[str, Any]:
    write_files(folder, {"rows.tsv": write_table("\t", "images/{}.png".format)})
    return {"path": "rows.tsv", "format": "tsv"}


def write_vlmeval_tsv(folder: Path) -> dict[str, Any]:
    table = write_table("\t", embed) + b"again\tQ again?\tred\tred\n"
    write_files(folder, {"rows.tsv": table})
    return {"path": "rows.tsv"}


def write_packed_vlmeval_tsv(folder: Path) -> dict[str, Any]:
    table = write_table("\t", embed) + b"again\tQ again?\tred\tred\n"
    write_files(folder, {"rows.tsv.gz": gzip.compress(table)})
    return {"path": "rows.tsv.gz"}


def write_tsv_with_folder(folder: Path) -> dict[str, Any]:
    table = write_table("\t", "{}.png".format).replace(b"image\n", b"image_path\n")
    write_files(folder, {"set.tsv": table, **{f"images/set/{colour}.png": make_png(colour) for colour in COLOURS}})
    return {"path": "set.tsv"}


def write_parquet(folder: Path) -> dict[str, Any]:
    rows = [{**row, "image": {"bytes": make_png(str(row["id"])) + PADDING, "path": None}} for row in ROWS]
    for name in ("train-0", "train-1"):
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet", row_group_size=2)
    return {"path": "train-*.parquet", "name": "train", "readers": 2}


def write_arrow(folder: Path) -> dict[str, Any]:
    feather.write_feather(pa.Table.from_pylist(ROWS), folder / "rows.arrow", compression="uncompressed")
    return {"path": "rows.arrow"}


def write_arrow_stream(folder: Path) -> dict[str, Any]:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, 2)
    return {"path": "rows.arrow"}


def write_folder_of_tables(folder: Path) -> dict[str, Any]:
    write_files(folder, {"tables/b.jsonl": write_lines(ROWS[:1]), "tables/a.jsonl": write_lines(ROWS[1:]), "tables/_x": ""})
    return {"path": "tables", "media_root": ".."}


def write_nested_globs(folder: Path) -> dict[str, Any]:
    names = ("data/x/1.jsonl", "data/y/z/2.jsonl", "data/.hidden/3.jsonl", "data/4.jsonl", "data/x/5.json")
    write_files(folder, {name: write_lines(ROWS) for name in names})
    return {"path": "data/**/[0-9].jsonl", "name": "nested", "media_root": ".."}


def write_braces(folder: Path) -> dict[str, Any]:
    write_files(folder, {f"part-{number:03}.jsonl": write_lines(ROWS) for number in range(3)})
    return {"path": "part-{000..002}.jsonl", "name": "parts"}


def write_image_folder(folder: Path) -> dict[str, Any]:
    images: dict[str, bytes | str] = {f"photos/{colour}.png": make_png(colour) for colour in COLOURS}
    deep: dict[str, bytes | str] = {"photos/a/x.png": make_png("red"), "photos/a.png": make_png("lime"), "photos/.b.png": b"x"}
    texts: dict[str, bytes | str] = {"photos/red.txt": "a caption", "photos/lime.json": '{"question": "Own?"}', "photos/x.pdf": "?"}
    write_files(folder, images | deep | texts)
    return {"path": "photos", **QUESTION}


def write_described_folder(folder: Path) -> dict[str, Any]:
    rows = [{"file_name": f"{colour}.png", "question": f"Q {colour}?"} for colour in COLOURS]
    images: dict[str, bytes | str] = {f"photos/{colour}.png": make_png(colour) for colour in COLOURS}
    write_files(folder, {**images, "photos/metadata.jsonl": write_lines(rows)})
    return {"path": "photos"}


def write_two_folders(folder: Path) -> dict[str, Any]:
    write_files(folder, {"one/red.png": make_png("red"), "two.v2/red.png": make_png("red"), "two.v2/red.txt": "red"})
    return {"path": ["one", "two.v2"], "name": "both", **QUESTION}


def write_video_folder(folder: Path) -> dict[str, Any]:
    write_files(folder, {"clips/a.mp4": "a film", "clips/b.mp4": "another film"})
    return {"path": "clips", "format": "video_folder", **QUESTION}


def write_webdataset(folder: Path) -> dict[str, Any]:
    for shard in ("000", "001"):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for colour in COLOURS:
                write_files(folder / "members", {"png": make_png(colour) + PADDING, "txt": f"{colour} {shard}"})
                for ending in ("png", "txt"):
                    tar.add(folder / "members" / ending, f"{colour}.{ending}")
    return {"path": "{000..001}.tar", "name": "shards", "readers": 2, **QUESTION}


def write_coco(folder: Path) -> dict[str, Any]:
    images = [{"id": number, "file_name": f"{colour}.png"} for number, colour in enumerate(COLOURS)]
    annotations = [{"image_id": number, "caption": f"caption {number}"} for number in range(3)]
    write_files(folder, {"captions.json": json.dumps({"images": images, "annotations": annotations})})
    return {"path": "captions.json", "format": "coco", "media_root": "images", **QUESTION}


def write_vqa(folder: Path) -> dict[str, Any]:
    questions = [{"question_id": 7, "image_id": 1, "question": "Q?"}]
    answers = [{"question_id": 7, "multiple_choice_answer": "red", "answers": [{"answer": "red"}]}]
    write_files(
        folder,
        {
            "questions.json": json.dumps({"data_type": "mscoco", "data_subtype": "val2014", "questions": questions}),
            "answers.json": json.dumps({"annotations": answers}),
            "val2014/COCO_val2014_000000000001.jpg": make_png("red"),
        },
    )
    return {"path": "questions.json", "format": "coco", "annotations": "answers.json"}


def write_realhitbench(folder: Path) -> dict[str, Any]:
    query = {"id": 1, "FileName": "t", "Question": "Q?", "FinalAnswer": "x"}
    tables: dict[str, bytes | str] = {"html/t.htm": "<table>", "image/t.png": make_png("lime")}
    write_files(folder, {**tables, "QA_final.json": json.dumps({"queries": [query]})})
    return {"path": "QA_final.json", "format": "realhitbench", "table": {"format": "html", "image": True}}


def write_saved_dataset(folder: Path) -> dict[str, Any]:
    rows = [{"id": colour, "picture": {"bytes": make_png(colour) + PADDING, "path": None}} for colour in COLOURS]
    saved = Dataset.from_list(rows, features=Features({"id": Value("string"), "picture": Image()}))
    DatasetDict({"train": saved, "test": saved}).save_to_disk(folder / "saved")
    return {"path": "saved", "split": "test", **QUESTION}


def write_results(folder: Path) -> dict[str, Any]:
    rows = [
        {"sample_id": str(number), "status": "ok", "prediction": colour, "question": "Q?", "index": colour}
        for number, colour in enumerate(COLOURS)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "results.parquet")
    return {"path": "results.parquet", "format": "results_file", "fields": {"question": "prediction"}}


WRITERS: tuple[Write, ...] = (
    write_jsonl, write_packed_lines, write_embedded_lines, write_json, write_json_columns, write_csv, write_tsv,
    write_vlmeval_tsv, write_packed_vlmeval_tsv, write_tsv_with_folder, write_parquet, write_arrow, write_arrow_stream,
    write_folder_of_tables, write_nested_globs, write_braces, write_image_folder, write_described_folder, write_two_folders,
    write_video_folder, write_webdataset, write_coco, write_vqa, write_realhitbench, write_saved_dataset, write_results,
)  # fmt: skip


# The rows of files whose reader uses the place of the file, and the media of rows. One path leads to a file of this machine.
READERS = (places.PLACES, references.REFERENCES, tables.TABLES, formats.CSV, formats.JSON, formats.PARQUET, formats.PACKED)
CASES = [case for case in chain(*READERS) if isinstance(case, RowCase) and case.name != "relative path outside the folder"]


def place(source: dict[str, Any], root: str) -> dict[str, Any]:
    """Return a source whose paths start at a root."""
    paths = source["path"]
    placed = {"path": f"{root}/{paths}" if isinstance(paths, str) else [f"{root}/{path}" for path in paths]}
    if "annotations" in source:
        placed["annotations"] = f"{root}/{source['annotations']}"
    return {**source, **placed}


def survey(source: dict[str, Any], folder: Path) -> Survey:
    return survey_dataset(resolve_dataset(DatasetSource.model_validate(source), folder / "spec.yaml", 0))


def read(surveyed: Survey, root: str) -> list[str]:
    """Return the samples as text, with ``ROOT`` in place of the root."""
    return [sample.model_dump_json().replace(root, "ROOT") for sample in read_dataset(surveyed.source)]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_remote_dataset_gives_the_local_samples(tmp_path: Path, s3_url: str, write: Write) -> None:
    local = tmp_path / "data"
    write_files(local, {f"images/{colour}.png": make_png(colour) for colour in COLOURS})
    source = write(local)
    upload_folder(local, f"{s3_url}/data")
    here, there = (survey(place(source, root), tmp_path) for root in (str(local), f"{s3_url}/data"))
    assert (here.refusal, there.refusal) == (None, None)
    assert [notice.event for notice in there.notices] == [notice.event for notice in here.notices]
    names = {"digest", "media_digest", "found_kind", "name"}
    assert there.source.model_dump(include=names) == here.source.model_dump(include=names)
    assert read(there, f"{s3_url}/data") == read(here, str(local))


@pytest.mark.parametrize("case", CASES, ids=lambda case: slugify(case.name))
def test_bad_rows_have_the_local_faults(tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch, case: RowCase) -> None:
    monkeypatch.setattr(lines, "LINE_LIMIT_BYTES", LONGEST_LINE_BYTES)
    local = tmp_path / "data"
    write_files(local, {case.file: case.content})
    case.prepare(local)
    upload_folder(local, f"{s3_url}/data")
    source = {"path": case.file, "name": "case", **case.source}
    here, there = (survey(place(source, root), tmp_path) for root in (str(local), f"{s3_url}/data"))
    assert read(there, f"{s3_url}/data") == read(here, str(local))
