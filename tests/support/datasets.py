"""Content of dataset files, and a check of the memory that a reader uses."""

import base64
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

from common.digests import digest_bytes
from common.records import Media, Sample
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from producer.datasets.survey import survey_dataset


def make_base64(size: int, seed: int = 0) -> str:
    """Return the base64 text of ``size`` random bytes, which depend only on ``seed``."""
    return base64.b64encode(random.Random(seed).randbytes(size)).decode()


def check_memory_is_bounded(path: Path) -> None:
    """Read a dataset of 20 rows with the same image of 2 MiB, and check the peak memory."""
    tracemalloc.start()
    try:
        samples = list(read_dataset(DatasetSource(path=str(path))))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(samples) == 20
    assert len({sample.group for sample in samples}) == 1
    assert peak_bytes < 30 * 2**20


def read_rows(folder: Path, *rows: Any, **source: Any) -> list[Sample]:
    """Write rows as JSON lines, and survey and read them as ``producer enqueue`` does."""
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_surveyed(path, **source)


def read_surveyed(path: Path, **source: Any) -> list[Sample]:
    return list(read_dataset(survey_dataset(DatasetSource(path=str(path), **source)).source))


def inline(text: str) -> Media:
    """Return base64 text as inline media with the digest of its bytes."""
    return Media(data=text, digest=digest_bytes(base64.b64decode(text)))


def read_unsurveyed(folder: Path, *rows: Any, **source: Any) -> list[Sample]:
    """Write rows as JSON lines, and read them without a survey."""
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return list(read_dataset(DatasetSource(path=str(path), **source)))


def read_one(folder: Path, **row: Any) -> Sample:
    (sample,) = read_unsurveyed(folder, {"question": "Q?", **row})
    return sample


def fault_of(sample: Sample) -> tuple[str, str]:
    assert sample.fault is not None
    return sample.fault.code, sample.fault.message


def talk(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant" if number % 2 else "user", "content": content} for number, content in enumerate(contents)]
