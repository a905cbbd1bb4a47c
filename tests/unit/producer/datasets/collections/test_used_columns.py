"""Columns that a reader itself uses are not reported as unused."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from producer.datasets.survey import survey_dataset
from tests.support.media.pictures import make_png, write_files

PNG = make_png()
RESULT = {"sample_id": "a", "status": "ok", "prediction": "A dog.", "question": "What?", "metadata": {"file_name": "a.png"}}
MEDIA = [{"kind": "image", "uri": "/data/a.png"}]
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "images": (".", "image_folder", {"a.png": PNG}),
    "metadata.jsonl": (".", "image_folder", {"a.png": PNG, "metadata.jsonl": '{"file_name": "a.png", "caption": null}\n'}),
    "metadata.csv": (".", "image_folder", {"a.png": PNG, "metadata.csv": "file_name,topic\na.png,x\n"}),
    "captions": (
        "captions.json",
        "coco",
        {"a.png": PNG, "captions.json": json.dumps({"images": [{"id": 1, "file_name": "a.png"}], "annotations": []})},
    ),
    "results": ("results.jsonl", "results_file", {"a.png": PNG, "results.jsonl": json.dumps(RESULT | {"media": MEDIA}) + "\n"}),
    "results without media": ("results.jsonl", "results_file", {"a.png": PNG, "results.jsonl": json.dumps(RESULT) + "\n"}),
}


@pytest.mark.parametrize(("path", "format_name", "files"), CASES.values(), ids=CASES)
def test_columns_of_the_reader_are_used(tmp_path: Path, path: str, format_name: str, files: dict[str, Any]) -> None:
    write_files(tmp_path, files)
    source = DatasetSource(path=str(tmp_path / path), name="set", format=format_name, question="Describe.")
    assert [notice.column for notice in survey_dataset(source).notices if notice.event == "dataset.column_unused"] == []
    (sample,) = read_dataset(source)
    assert sample.metadata["file_name"] == "a.png"


@pytest.mark.parametrize("name", ["metadata.jsonl", "captions"])
def test_used_column_can_be_mapped(tmp_path: Path, name: str) -> None:
    path, format_name, files = CASES[name]
    write_files(tmp_path, files)
    source = DatasetSource(path=str(tmp_path / path), format=format_name, question="Describe.", fields={"id": "file_name"})
    assert [sample.index for sample in read_dataset(source)] == ["a.png"]


def test_other_columns_of_a_folder_are_noticed(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PNG, "metadata.jsonl": '{"file_name": "a.png", "label": "red"}\n'})
    source = DatasetSource(path=str(tmp_path), question="Describe.")
    assert [notice.column for notice in survey_dataset(source).notices] == ["label"]
