"""Parquet and Arrow: nested columns, images, types that JSON does not have, damaged files and damaged cells."""

import datetime
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, ipc, parquet

from common.errors import ConfigError
from common.records import Sample
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from producer.datasets.readers import arrow_table
from producer.datasets.registry import find_format, find_reader
from producer.datasets.rows import Row
from producer.datasets.values.arrow import convert_rows

Write = Callable[[pa.Table, Path], object]


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def write_feather(table: pa.Table, path: Path) -> None:
    feather.write_feather(table, str(path))


WRITERS: dict[str, Write] = {"set.parquet": parquet.write_table, "set.arrow": write_stream, "set.feather": write_feather}
each_format = pytest.mark.parametrize("name", WRITERS)


def read_rows(folder: Path, name: str, table: pa.Table, **source: Any) -> list[Row]:
    WRITERS[name](table, folder / name)
    source = {"path": str(folder / name), **source}
    return list(find_reader(DatasetSource(**source))(DatasetSource(**source)))


def read(path: Path) -> list[Sample]:
    return list(read_dataset(DatasetSource(path=str(path), name="set")))


@each_format
def test_rows_become_samples(tmp_path: Path, name: str) -> None:
    columns = {
        "id": [7, 8],
        "question": ["a?", "b?"],
        "choices": [["x", "y"], None],
        "answer": ["y", "3"],
        "image": ["a.png", None],
        "topic": ["z", None],
    }
    WRITERS[name](pa.table(columns), tmp_path / name)
    first, second = read(tmp_path / name)
    assert (first.index, first.question, first.options, first.target) == ("7", "a?", {"A": "x", "B": "y"}, ("B",))
    assert (first.media[0].uri, first.metadata, first.fault) == (f"{tmp_path}/a.png", {"topic": "z"}, None)
    assert (second.index, second.options, second.target, second.media) == ("8", {}, ("3",), ())


@each_format
def test_nested_columns_become_lists_and_dicts(tmp_path: Path, name: str) -> None:
    image = {"bytes": b"\x89PNG\xff", "path": None}
    turns = [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]
    scores = pa.array([[("k", 1.5)]], pa.map_(pa.string(), pa.float64()))
    table = pa.table({"image": [image], "images": [[image, image]], "conversations": [turns], "scores": scores})
    (row,) = read_rows(tmp_path, name, table)
    assert row.fields == {"image": image, "images": [image, image], "conversations": turns, "scores": {"k": 1.5}}
    assert (row.line, row.fault, row.columns) == ("row 1", None, ("image", "images", "conversations", "scores"))


@each_format
@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (pa.timestamp("ms"), datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02 03:04:05.000"),
        (pa.timestamp("ns", "UTC"), 1, "1970-01-01 00:00:00.000000001Z"),
        (pa.date32(), datetime.date(2026, 1, 2), "2026-01-02"),
        (pa.time64("us"), datetime.time(3, 4, 5), "03:04:05.000000"),
        (pa.decimal128(10, 2), Decimal("1.50"), "1.50"),
        (pa.uint64(), 2**64 - 1, 2**64 - 1),
        (pa.int64(), -(2**63), -(2**63)),
        (pa.float64(), float("nan"), None),
        (pa.list_(pa.float32()), [0.5, float("inf")], [0.5, None]),
        (pa.binary(), b"\xff\xfe", "(2 bytes)"),
        (pa.list_(pa.timestamp("us")), [1], ["1970-01-01 00:00:00.000001"]),
        (pa.struct([("at", pa.date32()), ("x", pa.large_list(pa.decimal128(3, 1)))]), {"at": 1, "x": [Decimal("0.5")]}, None),
        (pa.dictionary(pa.int8(), pa.string()), "word", "word"),
    ],
)
def test_metadata_can_be_stored(tmp_path: Path, name: str, kind: pa.DataType, value: Any, expected: Any) -> None:
    if pa.types.is_struct(kind):
        expected = {"at": "1970-01-02", "x": ["0.5"]}
    WRITERS[name](pa.table({"question": ["Q?", "Q!"], "extra": pa.array([value, None], kind)}), tmp_path / name)
    first, second = read(tmp_path / name)
    assert (first.fault, first.metadata) == (None, {"extra": expected})
    assert (second.fault, second.metadata) == (None, {"extra": None})
    assert Sample.model_validate_json(first.model_dump_json()) == first


@each_format
def test_map_with_other_keys_is_stored_or_faulty(tmp_path: Path, name: str) -> None:
    pairs = pa.array([[(b"\xff", "x")], [(b"k", "y")]], pa.map_(pa.binary(), pa.string()))
    numbers = pa.array([[(1, "x")], []], pa.map_(pa.int64(), pa.string()))
    WRITERS[name](pa.table({"question": ["Q?", "Q!"], "pairs": pairs, "numbers": numbers}), tmp_path / name)
    samples = read(tmp_path / name)
    assert [sample.fault for sample in samples] == [None, None]
    stored = [Sample.model_validate_json(sample.model_dump_json()).metadata for sample in samples]
    assert stored == [{"pairs": {"\ufffd": "x"}, "numbers": {"1": "x"}}, {"pairs": {"k": "y"}, "numbers": {}}]
    key = pa.struct([("x", pa.int8())])
    WRITERS[name](pa.table({"question": ["Q?"], "m": pa.array([[({"x": 1}, "a")]], pa.map_(key, pa.string()))}), tmp_path / name)
    (sample,) = read(tmp_path / name)
    assert sample.fault
    assert sample.fault.message.startswith(f"{name}: row 1: field 'm': cannot be read (unhashable type: 'dict')")


def make_damaged_text(*texts: bytes) -> pa.Array:
    """Return a column of text whose bytes may be invalid UTF-8."""
    ends = [sum(map(len, texts[:number])) for number in range(len(texts) + 1)]
    offsets = pa.array(ends, pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), len(texts), [None, offsets, pa.py_buffer(b"".join(texts))])


@each_format
def test_damaged_cell_is_the_fault_of_its_row(tmp_path: Path, name: str) -> None:
    maps = pa.array([[("k", 1)], [("k", 1)], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))
    table = pa.table({"id": [1, 2, 3], "question": make_damaged_text(b"a?", b"caf\xe9?", b"c?"), "scores": maps})
    WRITERS[name](table, tmp_path / name)
    samples = read(tmp_path / name)
    assert [sample.fault and sample.fault.code for sample in samples] == [None, "bad_field", "bad_field"]
    messages = [sample.fault.message for sample in samples if sample.fault]
    assert messages[0].startswith(f"{name}: row 2: field 'question': cannot be read (Invalid")
    assert messages[1].startswith(f"{name}: row 3: field 'scores': cannot be read (Converting to Python dictionary")
    assert [sample.index for sample in samples] == ["1", "2", "3"]
    assert len({sample.sample_id for sample in samples}) == 3


@each_format
def test_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    table = pa.table({"question": [f"{number}?" for number in range(10)]})
    WRITERS[name](table, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    assert len(read(tmp_path / name)) == 10
    for size in (*range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 8, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(ConfigError, match=rf"dataset 'set': path: .*{name} cannot be read as (Parquet|Arrow) \(.*\); expected"):
            read(tmp_path / name)
    for seed in range(30):
        damaged = bytearray(whole)
        draw = random.Random(seed)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        try:
            samples = read(tmp_path / name)
        except ConfigError:
            continue
        assert len(samples) == 10  # the damage is in a text or in bytes that no reader uses


def test_stream_cut_between_batches_is_refused(tmp_path: Path) -> None:
    table = pa.table({"question": [f"{number}?" for number in range(6)]})
    write_stream(table, tmp_path / "set.arrow")
    whole = (tmp_path / "set.arrow").read_bytes()
    with pa.OSFile(str(tmp_path / "one.arrow"), "wb") as sink, ipc.new_stream(sink, table.schema) as writer:
        writer.write_batch(table.to_batches(max_chunksize=3)[0])
    first = (tmp_path / "one.arrow").read_bytes()[:-8]
    assert whole.startswith(first)
    (tmp_path / "set.arrow").write_bytes(first)
    with pytest.raises(ConfigError, match="the end of the stream is missing"):
        read(tmp_path / "set.arrow")


def test_column_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["question", "question"])
    parquet.write_table(table, tmp_path / "set.parquet")
    with pytest.raises(ConfigError, match="two columns are called 'question'"):
        read(tmp_path / "set.parquet")


@each_format
def test_empty_table_is_refused(tmp_path: Path, name: str) -> None:
    WRITERS[name](pa.table({"question": pa.array([], pa.string())}), tmp_path / name)
    with pytest.raises(ConfigError, match="holds no rows"):
        read(tmp_path / name)


@each_format
def test_format_is_found_by_content(tmp_path: Path, name: str) -> None:
    WRITERS[name](pa.table({"question": ["a?"]}), tmp_path / name)
    (tmp_path / name).rename(tmp_path / "data-00000")
    found = find_format(DatasetSource(path=str(tmp_path / "data-00000")))
    assert found == ("parquet" if name == "set.parquet" else "arrow")
    assert [sample.question for sample in read(tmp_path / "data-00000")] == ["a?"]


def test_rows_are_read_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def count_rows(batch: pa.RecordBatch) -> Any:
        sizes.append(batch.num_rows)
        return convert_rows(batch)

    monkeypatch.setattr(arrow_table, "convert_rows", count_rows)
    noise = random.Random(0)
    table = pa.table({"question": [f"{n}?" for n in range(40)], "image": [noise.randbytes(2**20) for _ in range(40)]})
    for name, write in WRITERS.items():
        write(table, tmp_path / name)
        sizes.clear()
        rows = find_reader(DatasetSource(path=str(tmp_path / name)))(DatasetSource(path=str(tmp_path / name)))
        assert sum(len(row.fields["image"]) for row in rows) == 40 * 2**20
        assert sum(sizes) == 40
        assert max(sizes) <= 8


ROWS = st.lists(
    st.fixed_dictionaries({
        "id": st.integers(-(2**63), 2**63 - 1) | st.none(),
        "question": st.text(max_size=5) | st.none(),
        "options": st.lists(st.text(max_size=3) | st.none(), max_size=3) | st.none(),
        "image": st.fixed_dictionaries({"bytes": st.binary(max_size=4) | st.none(), "path": st.text(max_size=3) | st.none()}),
    }),
    max_size=6,
)  # fmt: skip
SCHEMA = pa.schema([
    ("id", pa.int64()),
    ("question", pa.string()),
    ("options", pa.list_(pa.string())),
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
])  # fmt: skip


@given(ROWS, st.sampled_from(sorted(WRITERS)))
def test_written_rows_are_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], name: str) -> None:
    found = read_rows(tmp_path_factory.mktemp("arrow"), name, pa.Table.from_pylist(rows, SCHEMA))
    assert [row.fields for row in found] == rows
    assert [row.number for row in found] == list(range(len(rows)))
