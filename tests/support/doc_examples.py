"""The examples in the documentation, and tiny datasets for the paths that they name."""

import csv
import gzip
import io
import json
import re
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from common.spec.dataset_files import expand_braces, is_hub
from common.spec.dataset_paths import strip_compression
from tests.support.media.pictures import make_png

PAGES = ("README.md", "docs/datasets.md", "docs/rows.md", "docs/prompts.md", "docs/reference.md", "docs/models.md")

Row = dict[str, Any]

_PICTURES = re.compile(r"[\w./-]+\.(?:png|jpg)\b")
_COMMAND = re.compile(r"(?:^|&& |; )(?:[A-Z_]+=\S+ )*((?:producer|workers) [a-z].*)")


def list_blocks(text: str, language: str) -> list[str]:
    """Return the content of the code blocks of one language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)


def list_inline_sources(text: str) -> list[str]:
    """Return the datasets that a page shows within a line: code that begins with ``{path:``, or that sets fields of a dataset.

    Words in capitals, such as ``NAME``, are placeholders.
    """
    whole = re.findall(r"`(?:- )?(\{path: [^`]+\})`", text)
    parts = re.findall(r"`((?:fields|ignore): [^`]+)`", text)
    return [*whole, *(f"{{path: rows.csv, {part}}}" for part in parts if "NAME" not in part)]


def list_inline_prompts(text: str) -> list[str]:
    return re.findall(r"`(prompt: [^`]+)`", text)


def list_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command line of ``producer`` and ``workers`` in shell blocks."""
    for block in list_blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if found := _COMMAND.search(line):
                yield shlex.split(found[1].split(" && ")[0], comments=True)


def list_mentions(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of ``producer`` and ``workers`` within a line. Its arguments may be missing."""
    for mention in re.findall(r"`((?:producer|workers) [a-z][^`]*)`", text):
        yield shlex.split(mention)


def write_pictures(folder: Path, text: str) -> None:
    """Write each image that an example names into a folder."""
    for name in _PICTURES.findall(text):
        if not name.startswith("/"):
            _write(folder / name, make_png())


def write_dataset(folder: Path, source: dict[str, Any]) -> None:
    """Write one tiny file for each path of a dataset, with the columns that its fields map, and the files that it needs."""
    paths = source["path"] if isinstance(source["path"], list) else [source["path"]]
    for path in paths:
        if not is_hub(path):
            for name in expand_braces(path):
                _write_file(folder / name.replace("**", "deep").replace("*", "0001"), source, folder)


def _write_file(path: Path, source: dict[str, Any], folder: Path) -> None:
    root = path.parent / source.get("media_root", "")
    ending = Path(strip_compression(path.name)).suffix
    match source.get("format"), ending:
        case ("coco", _):
            _write_coco(path, source, root, folder)
        case ("realhitbench", _):
            _write_tables(path)
        case (_, ".tar"):
            _write_tar(path)
        case (_, ""):
            _write_folder(path, source)
        case _:
            _write(root / "a.png", make_png())
            _write(path, _encode(_make_row(source), ending, path.suffix))


def _make_row(source: dict[str, Any]) -> Row:
    """Return a row with the columns of the mapping, or of the earlier run for a file of results."""
    if source.get("format") == "results_file":
        outcome = {"sample_id": "1", "dataset": "earlier", "index": "7", "model": "echo", "status": "ok", "prediction": "a square"}
        return outcome | {"target": ["a square"], "metadata": {"file_name": "a.png"}}
    values: Row = {"id": "7", "question": "Which shape is it?", "image": "a.png", "target": "a square", "topic": "GEOMETRY"}
    texts = {"options": '["a circle", "a square"]', "messages": [{"role": "user", "content": "Which shape is it?"}]}
    mapped = source.get("fields", {})
    row = {
        mapped.get(ours, ours): value for ours, value in (values | {name: texts[name] for name in mapped if name in texts}).items()
    }
    row |= {theirs: values.get(ours, texts.get(ours, "1")) for ours, theirs in mapped.items()}
    return dict.fromkeys(source.get("ignore", ()), "not used") | row


def _encode(row: Row, ending: str, compression: str) -> bytes:
    if ending in (".parquet", ".pq"):
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([row]), sink)
        return sink.getvalue()
    if ending in (".csv", ".tsv"):
        text = io.StringIO()
        csv.writer(text, delimiter="," if ending == ".csv" else "\t").writerows([row.keys(), row.values()])
        content = text.getvalue().encode()
    else:
        content = json.dumps([row] if ending == ".json" else row).encode()
    return gzip.compress(content) if compression == ".gz" else content


def _write_coco(path: Path, source: dict[str, Any], root: Path, folder: Path) -> None:
    top = {"data_subtype": "val2014"}
    image = {"id": 9, "file_name": "000000000009.jpg"}
    caption = {
        "id": 1,
        "image_id": 9,
        "caption": "a cat",
        "question_id": 1,
        "multiple_choice_answer": "a cat",
        "answers": [{"answer": "a cat"}],
    }
    if "annotations" in source:
        questions = [{"question_id": 1, "image_id": 9, "question": "What is it?"}]
        _write(path, json.dumps(top | {"questions": questions}).encode())
        _write(folder / source["annotations"], json.dumps(top | {"annotations": [caption]}).encode())
    else:
        _write(path, json.dumps({"images": [image], "annotations": [caption]}).encode())
    for name in ("000000000009.jpg", "COCO_val2014_000000000009.jpg"):
        _write(root / name, make_png())


def _write_tables(path: Path) -> None:
    query = {"id": 1, "FileName": "t", "Question": "Which year?", "FinalAnswer": "1955", "QuestionType": "Fact Checking"}
    _write(path, json.dumps({"queries": [query]}).encode())
    for name in ("html/t.html", "markdown/t.md", "latex/t.txt", "csv/t.csv"):
        _write(path.parent / name, b"1955")
    _write(path.parent / "image/t.png", make_png())


def _write_tar(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in (("1.jpg", make_png()), ("1.txt", b"a cat")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _write_folder(path: Path, source: dict[str, Any]) -> None:
    if "split" in source:
        from datasets import Dataset, DatasetDict  # imported here, because the import is slow

        DatasetDict({source["split"]: Dataset.from_list([_make_row({}) | {"image": None}])}).save_to_disk(path)
    elif source.get("format") == "video_folder":
        _write(path / "a.mp4", b"video")
    else:
        _write(path / "a.jpg", make_png())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def complete_spec(block: str) -> dict[str, Any]:
    """Return the YAML of an example as a whole run spec."""
    return {"model": "echo", "datasets": [{"path": "rows.csv"}], **yaml.safe_load(block)}
