"""Results of an earlier run as a dataset: outcomes as metadata, predictions as questions, and other files."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import ConfigError
from common.prompts.messages import render_messages
from common.records import Attempt, Outcome, Sample
from common.spec.dataset_paths import resolve_dataset
from common.spec.models import DatasetSource
from common.spec.prompts import PromptSpec
from producer.datasets import read_dataset
from producer.results.collect import write_results
from tests.support.media.pictures import make_png

FILES = ["results.parquet", "results.jsonl"]


def outcome(number: int, **changes: Any) -> Outcome:
    values = {
        "sample_id": f"s{number}",
        "dataset": "old",
        "index": f"q{number}",
        "model": "tiny",
        "status": "ok",
        "prediction": f"A red square {number}.",
        "answer": "red",
        "target": ("blue",),
        "attempts": (Attempt(number=1, response="x"),),
        "started_at": 1.5,
        "metadata": {"category": "shapes", "image_id": number},
    }
    return Outcome.model_validate(values | changes)


def read(path: Path, **options: object) -> list[Sample]:
    return list(read_dataset(DatasetSource.model_validate({"path": str(path), "format": "results_file", **options})))


@pytest.mark.parametrize("name", FILES)
def test_predictions_are_asked_about(tmp_path: Path, name: str) -> None:
    failed = outcome(1, status="failed", prediction=None, answer=None, error_code="refused", error_message="no")
    write_results(iter([outcome(0), failed]), tmp_path)
    first, second = read(tmp_path / name, fields={"question": "prediction"})
    assert (first.index, first.question, first.target, first.fault) == ("q0", "A red square 0.", ("blue",), None)
    shown = {key: first.metadata[key] for key in ("category", "image_id", "status", "answer", "model", "dataset", "sample_id")}
    assert shown == {
        "category": "shapes",
        "image_id": 0,
        "status": "ok",
        "answer": "red",
        "model": "tiny",
        "dataset": "old",
        "sample_id": "s0",
    }
    assert "attempts" not in first.metadata
    assert second.fault is not None
    assert (second.index, second.fault.code, second.metadata["error_code"]) == ("q1", "missing_question", "refused")


@pytest.mark.parametrize("name", FILES)
def test_one_question_is_asked_of_all_rows(tmp_path: Path, name: str) -> None:
    write_results(iter([outcome(0), outcome(1, target=())]), tmp_path)
    question = "Is the text correct?"
    samples = read(tmp_path / name, question=question)
    assert [(sample.question, sample.target) for sample in samples] == [
        ("Is the text correct?", ("blue",)),
        ("Is the text correct?", ()),
    ]
    assert [sample.metadata["prediction"] for sample in samples] == ["A red square 0.", "A red square 1."]
    assert all(sample.model_dump_json() for sample in samples)


def test_questions_and_media_of_the_run_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_png())
    media = {"kind": "image", "uri": str(tmp_path / "a.png"), "digest": "d" * 32}
    asked = {"question": "Which?", "options": {"A": "red", "B": "blue"}, "kind": "multiple_choice", "media": [media], "hint": None}
    row = outcome(0, target=("B",)).model_dump(mode="json") | asked | {"messages": [{"role": "user", "content": [0, "Which?"]}]}
    (tmp_path / "results.jsonl").write_text(json.dumps(row))
    stored = row | {"metadata": "{}", "options": json.dumps(asked["options"]), "messages": "[]"}
    pq.write_table(pa.Table.from_pylist([stored]), tmp_path / "results.parquet")
    for name in FILES:
        (sample,) = read(tmp_path / name)
        assert (sample.question, sample.options, sample.kind, sample.target) == (
            "Which?",
            asked["options"],
            "multiple_choice",
            ("B",),
        )
        assert [medium.uri for medium in sample.media] == [str(tmp_path / "a.png")]
        assert (sample.fault, "messages" in sample.metadata) == (None, False)


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        ({"prediction": ...}, "bad_row", "no column 'prediction'; expected a row of results.jsonl of producer collect"),
        ({"metadata": "["}, "bad_field", "field 'metadata': found '[' (text); expected JSON as producer collect writes it"),
        ({"media": [{"url": "x"}]}, "bad_media", "field 'media': found {'url': 'x'} (an object)"),
        ({"media": "x"}, "bad_field", "field 'media'"),
        ({"options": [1]}, "bad_field", "field 'options'"),
    ],
)
def test_bad_row_is_a_fault(tmp_path: Path, change: dict[str, Any], code: str, part: str) -> None:
    good = outcome(0).model_dump(mode="json")
    bad = {name: value for name, value in (good | change).items() if value is not ...}
    (tmp_path / "results.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\nnot JSON\n")
    first, second, third = read(tmp_path / "results.jsonl", question="Q?")
    assert first.fault is None
    assert second.fault is not None
    assert third.fault is not None
    assert (second.fault.code, third.fault.code) == (code, "bad_row")
    assert second.fault.message.startswith("results.jsonl: line 2: ")
    assert part in second.fault.message


def test_other_table_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "status": ["x"]}), tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match=r"has no column 'sample_id' among id, status; expected results\.parquet"):
        read(tmp_path / "other.parquet")


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_cut_parquet_is_refused(tmp_path: Path, keep: float) -> None:
    write_results(iter([outcome(number) for number in range(50)]), tmp_path)
    content = (tmp_path / "results.parquet").read_bytes()
    (tmp_path / "results.parquet").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ConfigError, match=r"is not a whole Parquet file .*; collect the run again"):
        read(tmp_path / "results.parquet", question="Q?")


def test_faulty_rows_of_several_runs_stay_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_results(iter([outcome(0, sample_id=name), outcome(1, sample_id=f"{name}1")]), tmp_path / name)
    files = tuple(str(tmp_path / name / "results.parquet") for name in ("a", "b"))
    samples = list(read_dataset(DatasetSource(path=files[0], files=files, format="results_file")))
    assert all(sample.fault for sample in samples)
    assert len({sample.sample_id for sample in samples}) == len(samples) == 4


def test_damaged_cell_is_refused(tmp_path: Path) -> None:
    write_results(iter([outcome(0)]), tmp_path)
    table = pq.read_table(tmp_path / "results.parquet")
    ends = pa.array([0, 1], pa.int32()).buffers()[1]
    damaged = pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"\xe9")])
    place = table.schema.get_field_index("prediction")
    pq.write_table(table.set_column(place, "prediction", damaged), tmp_path / "results.parquet")
    with pytest.raises(ConfigError, match=r"is not a whole Parquet file .*; collect the run again"):
        read(tmp_path / "results.parquet", question="Q?")


def test_judge_of_descriptions_gets_image_and_prediction(tmp_path: Path) -> None:
    """Test the example of docs/datasets.md. Results have neither the question nor the media."""
    (tmp_path / "results").mkdir()
    result = {"sample_id": "a", "index": "a.png", "status": "ok", "prediction": "A dog.", "target": ["A cat."], "attempts": []}
    content = json.dumps(result | {"metadata": {"file_name": "a.png"}}) + "\n"
    (tmp_path / "results" / "results.jsonl").write_text(content)
    options = {"question": "Right?", "fields": {"image": "file_name"}, "media_root": "../photos", "ignore": ("target",)}
    source = DatasetSource.model_validate({"path": "results/results.jsonl", "name": "judged", "format": "results_file", **options})
    (sample,) = read_dataset(resolve_dataset(source, tmp_path / "spec.yaml", 0))
    assert [media.uri for media in sample.media] == [f"{tmp_path}/photos/a.png"]
    assert (sample.target, sample.fault) == ((), None)
    rendered = render_messages(sample, PromptSpec(template="{{ question }}\n{{ prediction }}"))
    assert rendered.messages[0].content == (0, "Right?\nA dog.")
