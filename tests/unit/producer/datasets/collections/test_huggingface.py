"""Hugging Face datasets: saved folders, which are read without the library, and the hub, which a local builder replaces."""

import base64
import datetime
import json
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, Video
from structlog.testing import capture_logs

from common.digests import digest_bytes
from common.errors import ConfigError, TransientError
from common.records import Sample
from common.spec.models import DatasetSource, MediaBounds
from producer.datasets import read_dataset
from tests.support.media.media import load_image
from tests.support.media.pictures import make_png
from workers.media.files import MediaAccess

SMALL = make_png("red")


def make_large(colour: str) -> bytes:
    """Return a PNG with a comment, so that it is larger than the limit of inline media."""
    png = make_png(colour)
    return png[:-12] + (20_000).to_bytes(4, "big") + b"tEXt" + b"x" * 20_000 + b"\0\0\0\0" + png[-12:]


def read(path: Path | str, **options: object) -> list[Sample]:
    return list(read_dataset(DatasetSource.model_validate({"path": str(path), "question": "What?", **options})))


def save(folder: Path, rows: list[dict[str, Any]], features: Features | None = None, **options: Any) -> Path:
    Dataset.from_list(rows, features=features).save_to_disk(folder, **options)
    return folder


def picture(content: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": content, "path": path}


def test_features_become_fields_and_media(tmp_path: Path) -> None:
    features = Features(
        {
            "question": Value("string"),
            "answer": ClassLabel(names=["cat", "dog"]),
            "picture": Image(),
            "more": List(Image()),
            "clip": Video(),
            "tags": List(ClassLabel(names=["x", "y"])),
            "box": {"label": ClassLabel(names=["p", "q"]), "at": List(Value("float32"))},
            "steps": List({"n": Value("int32")}),
            "when": Value("timestamp[s]"),
            "raw": Value("binary"),
        }
    )
    row = {
        "question": "Which?",
        "answer": 1,
        "picture": picture(SMALL),
        "more": [picture(SMALL), None],
        "clip": picture(b"video", "v.mp4"),
        "tags": [1, -1, 0],
        "box": {"label": 1, "at": [0.5, float("nan")]},
        "steps": [{"n": 1}, {"n": 2}],
        "when": datetime.datetime(2020, 1, 2),
        "raw": b"xyz",
    }
    folder = save(tmp_path / "set", [row, row | {"answer": -1, "question": None}], features)
    with capture_logs() as logs:
        first, second = read(folder)
    assert (first.index, first.question, first.target, first.fault) == ("0", "Which?", ("dog",), None)
    assert (second.question, second.target, second.fault) == ("What?", (), None)
    assert [(medium.kind, medium.data is not None, medium.uri) for medium in first.media] == [
        ("image", True, None),
        ("image", True, None),
        ("video", True, None),
    ]
    assert first.media[0].data == base64.b64encode(SMALL).decode()
    assert first.metadata == {
        "tags": ["y", None, "x"],
        "box": {"label": "q", "at": [0.5, None]},
        "steps": [{"n": 1}, {"n": 2}],
        "when": "2020-01-02 00:00:00",
        "raw": None,
    }
    assert [(event["event"], event["endings"]) for event in logs] == [("dataset.files_skipped", {"bytes": 2})]


def test_large_images_are_byte_ranges(tmp_path: Path) -> None:
    colours = ["red", "lime", "blue", "lime", "red"] * 10
    rows = [
        {"id": str(n), "a": picture(make_large(c)), "b": [picture(make_large(c)), picture(SMALL)]} for n, c in enumerate(colours)
    ]
    features = Features({"id": Value("string"), "a": Image(), "b": List(Image())})
    samples = read(save(tmp_path / "set", rows, features, num_shards=3))
    access = MediaAccess((str(tmp_path),), urls=False, url_timeout_s=1)
    expected = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}
    assert [sample.index for sample in samples] == [str(number) for number in range(50)]
    for colour, sample in zip(colours, samples, strict=True):
        first, second, third = sample.media
        assert (first.data, second.data, third.data is None) == (None, None, False)
        assert first.digest == second.digest == digest_bytes(make_large(colour))
        assert load_image(first, access, MediaBounds()).getpixel((0, 0)) == expected[colour]
        assert load_image(second, access, MediaBounds()).getpixel((0, 0)) == expected[colour]


def write_arrow(folder: Path, table: pa.Table, features: dict[str, Any], compression: str | None = None) -> Path:
    folder.mkdir()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "a.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def test_paths_stay_references(tmp_path: Path) -> None:
    paths = ["images/a.png", "/data/b.png", "https://x/c.png", None]
    table = pa.table({"image": pa.array([picture(None, path) for path in paths])})
    samples = read(write_arrow(tmp_path / "set", table, {"image": {"_type": "Image"}}), media_root=str(tmp_path / "m"))
    uris = [[medium.uri for medium in sample.media] for sample in samples]
    assert uris == [[f"{tmp_path}/m/images/a.png"], ["/data/b.png"], ["https://x/c.png"], []]


def test_compressed_images_are_inlined(tmp_path: Path) -> None:
    content = make_large("red")
    table = pa.table({"image": pa.array([picture(content)] * 3)})
    samples = read(write_arrow(tmp_path / "set", table, {"image": {"_type": "Image"}}, "zstd"))
    assert [sample.media[0].data for sample in samples] == [base64.b64encode(content).decode()] * 3


def test_images_in_messages_are_asked(tmp_path: Path) -> None:
    part = {"type": Value("string"), "image": Image(), "text": Value("string")}
    features = Features({"messages": List({"role": Value("string"), "content": List(part)})})
    content = [
        {"type": "text", "image": None, "text": "This:"},
        {"type": "image", "image": picture(SMALL), "text": None},
        {"type": "image", "image": picture(make_large("blue")), "text": None},
    ]
    (sample,) = read(save(tmp_path / "set", [{"messages": [{"role": "user", "content": content}]}], features))
    assert (sample.fault, [message.content for message in sample.messages]) == (None, [("This:", 0, 1)])
    assert [medium.digest for medium in sample.media] == [digest_bytes(SMALL), digest_bytes(make_large("blue"))]


def test_mapped_column_is_the_only_image(tmp_path: Path) -> None:
    features = Features({"a": Image(), "b": Image(), "c": Value("binary")})
    folder = save(tmp_path / "set", [{"a": picture(SMALL), "b": picture(make_png("blue")), "c": make_png("lime")}], features)
    assert len(read(folder)[0].media) == 2
    for column, colour in (("b", "blue"), ("c", "lime")):
        (medium,) = read(folder, fields={"image": column})[0].media
        assert medium.data == base64.b64encode(make_png(colour)).decode()


def test_split_of_saved_datasets_is_chosen(tmp_path: Path) -> None:
    splits = {name: Dataset.from_list([{"question": f"{name}?"}]) for name in ("train", "test")}
    DatasetDict(splits).save_to_disk(tmp_path / "two")
    DatasetDict(test=splits["test"]).save_to_disk(tmp_path / "one")
    assert [sample.question for sample in read(tmp_path / "two", split="train")] == ["train?"]
    assert [sample.question for sample in read(tmp_path / "one")] == ["test?"]
    with pytest.raises(ConfigError, match=r"split: found none; expected one of train, test"):
        read(tmp_path / "two")
    with pytest.raises(ConfigError, match=r"split: found 'val'; expected one of test"):
        read(tmp_path / "one", split="val")


def test_saved_folder_is_read_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "set", [{"question": "Q?"}])
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert [sample.question for sample in read(folder)] == ["Q?"]


def test_label_out_of_range_is_a_fault(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", [{"answer": 0}, {"answer": 1}], Features({"answer": Value("int64")}))
    info = json.loads((folder / "dataset_info.json").read_text())
    info["features"]["answer"] = {"_type": "ClassLabel", "names": ["cat"]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    good, bad = read(folder)
    assert (good.target, good.fault) == (("cat",), None)
    assert bad.fault is not None
    assert bad.fault.message.startswith(
        "set: row 1: field 'answer': found 1 (a number); expected the number of a class from 0 to 0"
    )


def cut_schema(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_bytes(b"not arrow, but text of some length")


@pytest.mark.parametrize("damage", [cut_schema, empty, overwrite, Path.unlink])
def test_damaged_arrow_file_is_one_fault(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = save(tmp_path / "set", [{"question": f"{number}?"} for number in range(20)], num_shards=2)
    damage(folder / "data-00000-of-00002.arrow")
    first, *others = read(folder)
    assert first.fault is not None
    assert first.fault.code == "bad_row"
    assert "data-00000-of-00002.arrow: row 0: not a whole Arrow stream" in first.fault.message
    assert [sample.question for sample in others] == [f"{number}?" for number in range(10, 20)]


@pytest.mark.parametrize("left", [8, 16, 64, 200])
def test_cut_arrow_file_ends_with_a_fault(tmp_path: Path, left: int) -> None:
    folder = save(tmp_path / "set", [{"question": f"{number}?"} for number in range(20)])
    path = folder / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:-left])
    last = read(folder)[-1]
    assert last.fault is not None
    assert "its other rows are missing: restore the file" in last.fault.message


def test_faulty_rows_of_several_folders_stay_apart(tmp_path: Path) -> None:
    folders = [save(tmp_path / name / "train", [{"question": "Q?"}, {"question": " "}]) for name in ("a", "b")]
    cut_schema(folders[0] / "data-00000-of-00001.arrow")
    cut_schema(folders[1] / "data-00000-of-00001.arrow")
    folders += [save(tmp_path / name / "train", [{"question": None}]) for name in ("c", "d")]
    source = DatasetSource(path=str(folders[0]), files=tuple(map(str, folders)), format="huggingface")
    samples = list(read_dataset(source))
    assert all(sample.fault for sample in samples)
    assert len({sample.sample_id for sample in samples}) == len(samples) == 4


def test_damaged_cell_is_a_fault_of_its_row(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", [{"question": f"{number}?"} for number in range(8)])
    path = folder / "data-00000-of-00001.arrow"
    content = path.read_bytes()
    ends = b"".join((2 * number).to_bytes(4, "little") for number in range(3))
    assert content.count(ends) == 1
    path.write_bytes(content.replace(ends, ends[:-4] + (2**31 - 1).to_bytes(4, "little")))
    samples = read(folder, question=None)
    assert [sample.row for sample in samples if sample.fault] == [1, 2]  # the end of one cell is the start of the next
    assert samples[1].fault is not None
    assert "row 1: field 'question': cannot be read (" in samples[1].fault.message
    assert [sample.question for sample in samples if not sample.fault] == ["0?", "3?", "4?", "5?", "6?", "7?"]


def test_times_and_decimals_are_text_as_in_parquet(tmp_path: Path) -> None:
    row = {"question": "?", "taken": datetime.datetime(2026, 1, 2, 3, 4, 5), "price": Decimal("1.10")}
    (sample,) = read(save(tmp_path / "set", [row]))
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "set.parquet")
    (same,) = read(tmp_path / "set.parquet")
    assert sample.metadata == same.metadata
    assert sample.metadata["price"] == "1.10"


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("state.json", None, "has neither state.json nor dataset_dict.json"),
        ("dataset_info.json", None, "dataset_info.json cannot be read"),
        ("state.json", "{", "state.json is not a JSON object; save the dataset again"),
        ("state.json", "{}", "holds no rows"),
    ],
)
def test_incomplete_folder_is_refused(tmp_path: Path, name: str, content: str | None, part: str) -> None:
    folder = save(tmp_path / "set", [{"question": "Q?"}])
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ConfigError, match=part):
        read(folder, format="huggingface")


# The hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Serve ``hf://org/set`` from local Parquet files with the splits train and test, and return the folder of the cache."""
    features = Features({"question": Value("string"), "image": Image(), "answer": ClassLabel(names=["cat", "dog"])})
    files = {}
    for split, count in (("train", 3), ("test", 2)):
        rows = [{"question": f"{split} {n}?", "image": picture(make_large("red")), "answer": n % 2} for n in range(count)]
        files[split] = str(tmp_path / f"{split}.parquet")
        Dataset.from_list(rows, features=features).to_parquet(files[split])
    build = datasets.load_dataset_builder

    def build_local(name: str, config: str | None, *, revision: str | None) -> Any:
        assert (name, config, revision) == ("org/set", "main", "abc")
        return build("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset_builder", build_local)
    return tmp_path / "cache"


def read_hub(**options: object) -> list[Sample]:
    return read("hf://org/set", **{"config": "main", "revision": "abc", "split": "test", **options})


@pytest.mark.parametrize("is_cached", [False, True])
def test_hub_dataset_is_read(hub: Path, is_cached: bool) -> None:
    if is_cached:
        datasets.load_dataset_builder("org/set", "main", revision="abc").download_and_prepare()
    samples = read_hub()
    assert [(sample.question, sample.target, sample.fault) for sample in samples] == [
        ("test 0?", ("cat",), None),
        ("test 1?", ("dog",), None),
    ]
    assert [sample.media[0].data for sample in samples] == [base64.b64encode(make_large("red")).decode()] * 2
    assert len(read_hub(split="train", limit=1)) == 1


def test_hub_split_must_be_given(hub: Path) -> None:
    with pytest.raises(ConfigError, match=r"split: found none; expected one of train, test"):
        read_hub(split=None)


@pytest.mark.parametrize(
    ("error", "expected", "part"),
    [
        (ConnectionError("Couldn't reach 'org/set' on the Hub"), TransientError, "the Hugging Face hub is unreachable"),
        (TimeoutError("slow"), TransientError, r"try again, or download the dataset .* save_to_disk"),
        (datasets.exceptions.DatasetNotFoundError("no such dataset"), ConfigError, "check the name, config, split and revision"),
        (ValueError("BuilderConfig 'x' not found"), ConfigError, "BuilderConfig 'x' not found"),
    ],
)
def test_hub_error_is_explained(monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception], part: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", fail)
    with pytest.raises(expected, match=part):
        read_hub()


def test_offline_hub_is_unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TransientError, match=r"path: hf://org/none: the Hugging Face hub is unreachable"):
        read("hf://org/none")


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"requires the library datasets .*; run pip install 'vlm-fleet\[hub\]'"):
        read_hub()
