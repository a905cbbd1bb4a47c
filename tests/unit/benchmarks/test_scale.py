"""The datasets of the benchmark of scale are readable and have the given size, and its table has the measurements."""

from pathlib import Path

import pytest

from benchmarks.scale.cases import CASES
from benchmarks.scale.enqueue import Measured, count_bytes
from benchmarks.scale.measure import PEAK_LIMIT_BYTES, describe, is_within_limit
from common.spec.dataset_paths import resolve_dataset
from common.spec.models import DatasetSource
from producer.datasets import read_dataset


@pytest.mark.parametrize(("name", "size"), [("jsonl", 300), ("tsv", 3_000_000), ("parquet", 3_000_000), ("tar", 3_000_000)])
def test_each_row_asks_something_different(tmp_path: Path, name: str, size: int) -> None:
    CASES[name].write(tmp_path, size)
    source = DatasetSource(path=str(tmp_path / CASES[name].path), name=name, question="Describe the image.")
    samples = list(read_dataset(resolve_dataset(source, tmp_path / "spec.yaml", 0)))
    assert [sample.fault for sample in samples] == [None] * len(samples)
    assert len({sample.sample_id for sample in samples}) == len(samples) > 1
    assert all(len(sample.media) == (name != "jsonl") for sample in samples)
    assert len(samples) == 300 if name == "jsonl" else size <= count_bytes(tmp_path) < 2.5 * size


def test_same_scale_gives_same_files(tmp_path: Path) -> None:
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        CASES["tsv"].write(folder, 1_000_000)
    assert (tmp_path / "one/rows.tsv").read_bytes() == (tmp_path / "two/rows.tsv").read_bytes()


def test_table_has_rates_and_sizes() -> None:
    measured = Measured(rows=1000, size_bytes=50_000_000, wall_s=2.0, cpu_s=1.5, peak_bytes=200_000_000, plan_bytes=1_000_000)
    assert describe("rows", measured) == "| rows | 1,000 | 50 | 500 | 25 | 2.0 | 1.5 | 200 | 1.0 |"


@pytest.mark.parametrize(("peak_bytes", "is_within"), [(PEAK_LIMIT_BYTES, True), (PEAK_LIMIT_BYTES + 1, False)])
def test_peak_above_limit_is_recognized(peak_bytes: int, is_within: bool) -> None:
    small = Measured(rows=1, size_bytes=1, wall_s=1.0, cpu_s=1.0, peak_bytes=1, plan_bytes=1)
    large = Measured(rows=1, size_bytes=1, wall_s=1.0, cpu_s=1.0, peak_bytes=peak_bytes, plan_bytes=1)
    assert is_within_limit([small, large]) == is_within
