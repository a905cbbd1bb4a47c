"""The captioning example prepares a row for each shape without a caption, and names every fault of the project's files."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from common.spec.files import read_specs
from examples.captioning.documents import Found, Shape, iterate_shapes
from examples.captioning.make_data import write_project
from examples.captioning.prepare import Prepared, write_rows
from producer.datasets import read_dataset

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "captioning"
DATA = EXAMPLE / "data"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with one document: two shapes, a text and an image."""
    folder = tmp_path / "project"
    write_json(folder / "jsons" / "page.json", {"elements": []})
    for name, kind in (("one", "ShapeElement"), ("words", "TextElement"), ("photo", "ImageElement"), ("two", "GroupElement")):
        add_element(folder, name, kind)
    return folder


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def add_element(project: Path, name: str, kind: str = "ShapeElement", *, document: str = "page", **detail: Any) -> None:
    path = project / "jsons" / f"{document}.json"
    content = json.loads(path.read_text()) if path.exists() else {"elements": []}
    content["elements"].append({"id": name, "type": kind})
    write_json(path, content)
    if kind not in ("TextElement", "ImageElement"):
        write_json(project / "json_detail" / f"{name}.json", {"image": f"{name}.png", "context": f"near {name}", **detail})


def prepare(project: Path, **options: Any) -> tuple[Prepared, list[dict[str, Any]]]:
    path = project / "work" / "shapes.jsonl"
    path.unlink(missing_ok=True)
    prepared = write_rows(project, project / "captions", path, **options)
    assert [other for other in path.parent.iterdir() if other != path] == []
    return prepared, [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_shapes_are_found_without_texts_and_images(project: Path) -> None:
    found = Found()
    assert list(iterate_shapes(project, found)) == [
        Shape("one.png", "one", "page", "near one"),
        Shape("two.png", "two", "page", "near two"),
    ]
    assert found == Found(others=found.others)
    assert found.others == {"TextElement": 1, "ImageElement": 1}


def test_each_row_has_image_and_context(project: Path) -> None:
    prepared, rows = prepare(project, question="What is this? {context} {other}")
    assert (prepared.rows, prepared.captioned) == (2, 0)
    assert rows[0] == {
        "id": "one.png",
        "image": "one.png",
        "question": "What is this? near one {other}",
        "context": "near one",
        "document": "page",
        "element": "one",
    }


def test_captioned_images_are_skipped(project: Path) -> None:
    captions = project / "captions"
    captions.mkdir()
    (captions / "one.png.txt").write_text("A circle.")
    (captions / "two.png.txt").write_text("")  # a power cut can leave an empty file
    prepared, rows = prepare(project)
    assert (prepared.rows, prepared.captioned, [row["id"] for row in rows]) == (1, 1, ["two.png"])
    assert prepared.describe() == "1 shapes without a caption, 1 with a caption, 1 ImageElement, 1 TextElement"
    (captions / "two.png.txt").write_text("A square.")
    prepared, rows = prepare(project)
    assert (prepared.rows, prepared.captioned, rows) == (0, 2, [])
    assert not (project / "work" / "shapes.jsonl").exists()


def test_image_in_two_documents_is_asked_once(project: Path) -> None:
    add_element(project, "again", document="second", image="./one.png")
    prepared, rows = prepare(project)
    assert (prepared.repeated, [row["id"] for row in rows]) == (1, ["one.png", "two.png"])


FAULTS: dict[str, tuple[str, Any, str]] = {
    "document is no JSON": ("jsons/bad.json", "{", "jsons/bad.json: not JSON"),
    "document is no object": ("jsons/bad.json", [1], "jsons/bad.json: found [1]; expected a JSON object"),
    "document without elements": ("jsons/bad.json", {"title": "x"}, "bad.json: elements: found None; expected a list"),
    "document is too deep": ("jsons/bad.json", "[" * 100_000, "jsons/bad.json: not JSON"),
    "element is no object": ("jsons/bad.json", {"elements": ["x"]}, "bad.json: elements: found 'x'; expected an object"),
    "element without type": ("jsons/bad.json", {"elements": [{"id": "x"}]}, "bad.json: type: found None; expected a text"),
    "element without id": ("jsons/bad.json", {"elements": [{"type": "ShapeElement"}]}, "bad.json: id: found None"),
    "element in another folder": ("jsons/bad.json", {"elements": [{"type": "S", "id": "../x"}]}, "expected a name without folders"),
    "element without details": ("jsons/bad.json", {"elements": [{"type": "S", "id": "x"}]}, "json_detail/x.json: cannot be read"),
    "details without context": ("json_detail/one.json", {"image": "a.png"}, "one.json: context: found None; expected a text"),
    "details without image": ("json_detail/one.json", {"context": "x"}, "one.json: image: found None; expected a text"),
    "image with a blank name": ("json_detail/one.json", {"context": "x", "image": " "}, "image: found ' '; expected a text"),
    "image in another folder": (
        "json_detail/one.json",
        {"context": "x", "image": "../a"},
        "expected a path below the image folder",
    ),
    "image with a whole path": ("json_detail/one.json", {"context": "x", "image": "/a"}, "expected a path below the image folder"),
    "image with a null byte": ("json_detail/one.json", {"context": "x", "image": "a\0"}, "one.json: image: found 'a\\x00'"),
    "half of a surrogate pair": ("json_detail/one.json", '{"image": "a", "context": "\\ud800"}', "one.json: context: found"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_fault_of_one_file_is_named(project: Path, case: str) -> None:
    """The other shapes are prepared."""
    name, content, expected = FAULTS[case]
    write_json(project / name, content)
    prepared, rows = prepare(project)
    (fault,) = prepared.faults
    assert expected in fault
    assert [row["id"] for row in rows] == ["one.png", "two.png"][name.startswith("json_detail") :]


def test_file_that_is_not_utf8_is_a_fault(project: Path) -> None:
    (project / "json_detail" / "one.json").write_bytes(b'{"context": "\xff"}')
    assert "one.json: not JSON" in prepare(project)[0].faults[0]


def test_project_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jsons: no JSON files found; expected at least one document"):
        write_rows(tmp_path, tmp_path, tmp_path / "out" / "shapes.jsonl")


def test_unwritable_rows_raise_config_error(project: Path) -> None:
    (project / "file").write_text("")
    with pytest.raises(ConfigError, match=r"shapes\.jsonl cannot be written"):
        write_rows(project, project / "captions", project / "file" / "shapes.jsonl")
    with pytest.raises(ConfigError, match=r"file/one\.png\.txt cannot be read \(Not a directory\)"):
        write_rows(project, project / "file", project / "shapes.jsonl")


def test_example_data_is_reproduced_and_small(tmp_path: Path) -> None:
    captions = write_project(tmp_path)
    files = [path for path in DATA.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 200_000
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {path.relative_to(DATA): path.read_bytes() for path in files}
    assert [shape.image for shape in iterate_shapes(DATA, Found())] == sorted(captions)


def test_example_spec_reads_the_prepared_rows(tmp_path: Path) -> None:
    rows = tmp_path / "shapes.jsonl"
    write_rows(DATA, tmp_path / "captions", rows)
    (spec,) = read_specs(EXAMPLE / "captioning.yaml", (f"datasets.0.path={rows}", f"datasets.0.media_root={DATA / 'raw'}"))
    assert spec.validation.validators == ("non_empty", {"max_words": 30})
    samples = [sample for source in spec.datasets for sample in read_dataset(source)]
    assert len(samples) == 24
    assert {sample.kind for sample in samples} == {"free_text"}
    for sample in samples:
        assert sample.fault is None
        (media,) = sample.media
        assert media.uri
        assert Path(media.uri).is_file()
        assert sample.metadata["context"] in sample.question
