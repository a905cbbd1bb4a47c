"""Several files as one dataset: one order, continuing numbers, faults that name their file, and parallel reading."""

import gzip
import json
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.records import Sample
from common.spec.dataset_paths import resolve_dataset
from common.spec.models import DatasetSource
from producer.datasets import read_dataset, sources
from producer.datasets.readers.jsonl import read_jsonl
from producer.datasets.rows import Row
from producer.datasets.sources import read_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of five files with 0 to 4 rows. The second row of a file is invalid."""
    for number in range(5):
        rows = [json.dumps({"question": f"{number}.{row}?", "image": f"{row}.png"}) for row in range(number)]
        if number > 1:
            rows[1] = "[]"
        (tmp_path / f"part-{number}.jsonl").write_text("\n".join(rows))
    return tmp_path


def resolve(folder: Path, path: str = "*.jsonl", **more: object) -> DatasetSource:
    return resolve_dataset(DatasetSource.model_validate({"path": path, "name": "set", **more}), folder / "spec.yaml", 0)


def read(folder: Path, path: str = "*.jsonl", **more: object) -> list[Sample]:
    return list(read_dataset(resolve(folder, path, **more)))


@pytest.mark.parametrize("readers", [1, 2, 3, 8])
def test_rows_keep_the_order_of_the_files(folder: Path, readers: int) -> None:
    samples = read(folder, readers=readers)
    expected = [f"{number}.{row}?" if row != 1 else "" for number in range(5) for row in range(number)]
    assert [sample.question for sample in samples] == expected
    assert [sample.index for sample in samples] == [str(number) for number in range(10)]
    assert samples == read(folder)


def test_fault_names_the_file_of_its_row(folder: Path) -> None:
    messages = [sample.fault.message for sample in read(folder) if sample.fault]
    assert messages == [f"part-{n}.jsonl: line 2: found [] (a list); expected a JSON object" for n in (2, 3, 4)]


def test_fault_of_a_field_names_the_file(folder: Path) -> None:
    (folder / "part-2.jsonl").write_text('{"question": 7}')
    message = next(sample.fault.message for sample in read(folder) if sample.fault)
    assert message.startswith("part-2.jsonl: line 1: field 'question': ")


def test_media_start_at_the_folder_of_their_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "set.jsonl").write_text('{"question": "Q?", "image": "x.png"}')
    uris = [sample.media[0].uri for sample in read(tmp_path, "*/set.jsonl")]
    assert uris == [f"{tmp_path}/a/x.png", f"{tmp_path}/b/x.png"]
    rooted = read(tmp_path, "*/set.jsonl", media_root="images")
    assert [sample.media[0].uri for sample in rooted] == [f"{tmp_path}/images/x.png"] * 2


def test_limit_counts_rows_of_all_files(folder: Path) -> None:
    assert [sample.index for sample in read(folder, limit=4, readers=2)] == ["0", "1", "2", "3"]


def test_files_may_be_compressed_differently(folder: Path) -> None:
    plain = read(folder)
    (folder / "part-3.jsonl").rename(folder / "x")
    (folder / "part-3.jsonl.gz").write_bytes(gzip.compress((folder / "x").read_bytes()))
    assert [sample.sample_id for sample in read(folder, "part-*")] == [sample.sample_id for sample in plain]


def test_files_of_two_formats_are_refused(folder: Path) -> None:
    (folder / "part-9.csv").write_text("id,question\n")
    with pytest.raises(ConfigError, match=r"part-0\.jsonl is jsonl and .*part-9\.csv is csv; expected files of one format"):
        read(folder, "part-*")


def test_missing_file_is_named(folder: Path) -> None:
    source = resolve(folder)
    (folder / "part-3.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"path: .*part-3\.jsonl cannot be read"):
        read_dataset(source)


@pytest.mark.parametrize("readers", [1, 3])
def test_error_in_a_file_comes_after_earlier_rows(folder: Path, readers: int) -> None:
    (folder / "part-3.jsonl").write_bytes(gzip.compress(b'{"question": "x"}\n' * 100)[:-3])
    met: list[Sample] = []
    with pytest.raises(ConfigError, match=r"part-3\.jsonl: gzip: the compressed file is cut"):
        met.extend(islice(read_dataset(resolve(folder, readers=readers)), 100))
    rows = read_files(read_jsonl, resolve(folder, readers=readers))
    assert [row.number for row in islice(rows, 3)] == [0, 1, 2]


def test_readers_wait_for_a_full_buffer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_BUFFER_BYTES", 1)
    assert [row.number for row in read_files(read_jsonl, resolve(folder, readers=4))] == list(range(10))


def test_threads_end_when_reading_stops(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_BUFFER_BYTES", 1)
    before = set(threading.enumerate())

    def read_slowly(source: DatasetSource) -> Iterator[Row]:
        for number in range(1_000_000):
            yield Row(number, 1, b"", fields={"question": source.path})

    rows = read_files(read_slowly, resolve(folder, readers=3))
    next(iter(rows))
    started = set(threading.enumerate()) - before
    assert len(started) == 3
    del rows
    for thread in started:
        thread.join(timeout=30)
        assert not thread.is_alive()
