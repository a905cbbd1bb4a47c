"""RealHiTBench: the form of the tables, targets, and faults of queries and table files."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from common.records import Sample
from common.settings import Settings
from common.spec.models import DatasetSource, RunFile
from producer.datasets import read_dataset
from producer.datasets.collections import sidecars
from tests.support.media.pictures import make_png, write_files

TABLES: dict[str, bytes | str] = {
    "html/employment-table01.html": "\ufeff<table><tr><td>html</td></tr></table>\n",
    "markdown/employment-table01.md": "| markdown |",
    "latex/employment-table01.txt": "\\begin{tabular}latex",
    "csv/employment-table01.csv": "csv,1\r\n",
    "image/employment-table01.png": make_png(),
}
QUERY = {
    "id": 1,
    "FileName": "employment-table01",
    "CompStrucCata": "ColumnHeaderMerge",
    "Source": "Bureau",
    "Question": "Which year?",
    "QuestionType": "Fact Checking",
    "SubQType": "Value-Matching",
    "COT": [{"planning": "First"}],
    "FinalAnswer": "1955, 62170",
    "ProcessedAnswer": "1955, 62170",
}


def read(folder: Path, queries: list[Any], *, table: object = None, **options: object) -> list[Sample]:
    write_files(folder, {**TABLES, "QA_final.json": json.dumps({"queries": queries})})
    return read_again(folder, table or {"format": "html"}, **options)


def read_again(folder: Path, table: object, **options: object) -> list[Sample]:
    source = {"path": str(folder / "QA_final.json"), "format": "realhitbench", "table": table, **options}
    return list(read_dataset(DatasetSource.model_validate(source)))


@pytest.mark.parametrize(
    ("table_format", "text", "path"),
    [
        ("html", "<table><tr><td>html</td></tr></table>", "html/employment-table01.html"),
        ("markdown", "| markdown |", "markdown/employment-table01.md"),
        ("latex", "\\begin{tabular}latex", "latex/employment-table01.txt"),
        ("csv", "csv,1", "csv/employment-table01.csv"),
    ],
)
def test_table_text_stands_before_the_question(tmp_path: Path, table_format: str, text: str, path: str) -> None:
    (sample,) = read(tmp_path, [QUERY], table={"format": table_format})
    assert sample.question == f"{text}\n\nWhich year?"
    assert (sample.index, sample.target, sample.media, sample.fault) == ("1", ("1955, 62170",), (), None)
    assert (sample.metadata["table"], sample.metadata["table_question"]) == (path, "Which year?")
    assert sample.metadata["QuestionType"] == "Fact Checking"


def test_table_image_replaces_or_accompanies_the_text(tmp_path: Path) -> None:
    (image,) = read(tmp_path, [QUERY], table={"format": "image"})
    (both,) = read_again(tmp_path, {"format": "csv", "image": True})
    assert (image.question, both.question) == ("Which year?", "csv,1\n\nWhich year?")
    assert [sample.media[0].uri for sample in (image, both)] == [f"{tmp_path}/image/employment-table01.png"] * 2


def test_formats_are_different_questions(tmp_path: Path) -> None:
    samples = [read(tmp_path, [QUERY], table={"format": name})[0] for name in ("html", "csv", "image")]
    assert len({sample.sample_id for sample in samples}) == 3


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        ({"FileName": "other"}, "media_missing", "html/other.html: no such file"),
        ({"FileName": "../x"}, "bad_field", "field 'FileName': found '../x' (text); expected the name of a table"),
        ({"FileName": None}, "bad_field", "field 'FileName': found None"),
        ({"Question": " "}, "missing_question", "field 'question'"),
        ({"FinalAnswer": {"a": 1}}, "bad_field", "field 'target': found {'a': 1}"),
    ],
)
def test_bad_query_is_a_fault(tmp_path: Path, change: dict[str, Any], code: str, part: str) -> None:
    good, bad = read(tmp_path, [QUERY, QUERY | {"id": 2} | change])
    assert good.fault is None
    assert bad.fault is not None
    assert bad.fault.code == code
    assert "QA_final.json: queries[1]: " in bad.fault.message
    assert part in bad.fault.message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"\xff", "html/bad.html: not UTF-8 (byte 1)"),
        (b" \n", "html/bad.html: it is empty"),
        (b"x" * (8 * 2**20 + 1), "bad.html: longer than 8,388,608 bytes"),
    ],
)
def test_bad_table_file_is_a_fault(tmp_path: Path, content: bytes, part: str) -> None:
    write_files(tmp_path, {"html/bad.html": content})
    (sample,) = read(tmp_path, [QUERY | {"FileName": "bad"}])
    assert sample.fault is not None
    assert part in sample.fault.message


def test_table_outside_the_folders_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.html").write_text("secret")
    folder = tmp_path / "set"
    (folder / "html").mkdir(parents=True)
    (folder / "html" / "link.html").symlink_to(tmp_path / "secret.html")
    (sample,) = read(folder, [QUERY | {"FileName": "link"}])
    assert sample.fault is not None
    assert (sample.fault.code, "secret" in sample.question) == ("media_forbidden", False)
    monkeypatch.setenv("FLEET_MEDIA_ROOTS", str(tmp_path))
    monkeypatch.setattr(sidecars, "get_settings", Settings)
    assert read_again(folder, {"format": "html"})[0].fault is None


def test_missing_table_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"table: missing; expected table: \{format: FORMAT\} with one of html, markdown, latex"):
        read_again(write_files(tmp_path, {"QA_final.json": "{}"}), None)


def test_unknown_table_format_is_refused() -> None:
    with pytest.raises(ValueError, match="'html', 'markdown', 'latex', 'csv' or 'image'"):
        RunFile.model_validate({"model": "m", "datasets": [{"path": "x.json", "table": {"format": "pdf"}}]})
