"""Read COCO captions, and the questions and annotations of VQA.

Sources: https://cocodataset.org/#format-data (captions: ``images`` and ``annotations`` in one file) and
https://visualqa.org/download.html, "Input Questions Format" and "Annotation Format" (VQA: a file of questions, and a file of
answers, which the option ``annotations`` names). Image names have the form of
https://github.com/GT-Vision-Lab/VQA/blob/master/PythonHelperTools/vqaDemo.py: ``COCO_val2014_000000000042.jpg``.

A captions file gives one row for each image. All captions of the image are its targets. A VQA file gives one row for each question.
Its target is ``multiple_choice_answer``, the most frequent answer. The ten ``answers`` are a field of their own, and the option
``fields: {target: answers}`` makes them the targets. The files are streamed. Only the captions or answers are kept in memory.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from common.errors import ConfigError, SampleError
from common.spec.models import DatasetSource
from common.storage.files import is_folder
from producer.datasets.collections.folders import is_new_report
from producer.datasets.collections.json_items import iterate_items
from producer.datasets.fields import misfit, to_index
from producer.datasets.readers.jsonl import fill_row
from producer.datasets.registry import register_reader
from producer.datasets.rows import Row, find_fault, plan_reading

log = structlog.get_logger()


@dataclass
class _Answers:
    """The annotations of a dataset.

    - ``path`` is the file with the annotations.
    - ``fields`` maps the id of a question or an image to the fields from its annotations.
    - ``errors`` maps such an id to the error of a malformed annotation.
    - ``unused`` counts the annotations without a valid id.
    """

    path: str
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, SampleError] = field(default_factory=dict)
    unused: int = 0

    def take(self, identifier: str) -> dict[str, Any] | None:
        """Return the fields of an id, or None if it has no annotation. Raises ``SampleError`` for a malformed annotation."""
        if identifier in self.errors:
            raise self.errors[identifier]
        return self.fields.pop(identifier, None)


_Shape = Callable[[dict[str, Any], _Answers, set[str]], dict[str, Any]]


@register_reader("coco")
def read_coco(source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of a file of captions, or of a file of VQA questions."""
    is_vqa = next(iterate_items(source, source.path, "questions.item"), None) is not None
    if not is_vqa and source.annotations:
        raise ConfigError(
            f"dataset {source.name!r}: path: {source.path} has no questions, but the dataset has annotations; "
            "expected path: QUESTIONS.json and annotations: ANNOTATIONS.json"
        )
    key = "questions" if is_vqa else "images"
    answers = _read_answers(source) if is_vqa else _read_captions(source)
    shape: _Shape = _shape_vqa(source) if is_vqa else _shape_captions
    seen: set[str] = set()
    for number, item in enumerate(iterate_items(source, source.path, f"{key}.item")):
        row = Row(number, f"{key}[{number}]", json.dumps(item).encode())
        try:
            fill_row(row, source)
            row.fields = shape(dict(row.fields), answers, seen)
            if not is_vqa:
                row.kind = "free_text"
                _use_file_name(row, source)
        except SampleError as error:
            row.fault = row.fault or find_fault(source, row.line, error)
        yield row
    unused = len(answers.fields) + answers.unused
    if unused and is_new_report("unused", source.name, answers.path, unused):
        log.warning("dataset.annotations_unused", dataset=source.name, path=answers.path, annotations=unused)


def _read_captions(source: DatasetSource) -> _Answers:
    """Return the captions of each image: ``{"target": [caption, …]}``."""
    found = _Answers(source.path)
    annotations = captions = 0
    for annotations, item in enumerate(iterate_items(source, source.path, "annotations.item"), start=1):
        image, caption = (item.get("image_id"), item.get("caption")) if isinstance(item, dict) else (None, None)
        identifier = _to_key(image)
        if identifier is None:
            found.unused += 1
        elif isinstance(caption, str):
            captions += 1
            found.fields.setdefault(identifier, {"target": []})["target"].append(caption.strip())
        else:
            error = SampleError("bad_field", f"annotations[{annotations - 1}]: field 'caption': {misfit(caption, 'text')}")
            found.errors.setdefault(identifier, error)
    if annotations and not captions:
        raise ConfigError(
            f"dataset {source.name!r}: path: the annotations in {source.path} have no captions; "
            "expected a captions file such as captions_val2017.json"
        )
    return found


def _shape_captions(fields: dict[str, Any], captions: _Answers, seen: set[str]) -> dict[str, Any]:
    found = captions.take(_find_id(fields, "id", seen))
    name = fields.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise SampleError("bad_media", f"field 'file_name': {misfit(name, 'the path of an image, relative to media_root')}")
    return fields | (found or {}) | {"image": name}


def _use_file_name(row: Row, source: DatasetSource) -> None:
    """Move ``file_name`` to the metadata, because the field ``image`` has the same value. Keep it if the source maps it."""
    if "file_name" not in source.fields.values():
        fields = dict(row.fields)
        row.metadata["file_name"] = fields.pop("file_name")
        row.fields = fields


def _read_answers(source: DatasetSource) -> _Answers:
    """Return the answers to each question. The result is empty for a test split, because its answers are not public."""
    found = _Answers(source.annotations or "")
    for number, item in enumerate(iterate_items(source, found.path, "annotations.item") if found.path else ()):
        identifier = _to_key(item.get("question_id")) if isinstance(item, dict) else None
        if identifier is None:
            found.unused += 1
            continue
        try:
            found.fields[identifier] = _read_answer(item)
        except SampleError as error:
            place = f"{Path(found.path).name}: annotations[{number}]"
            found.errors[identifier] = SampleError(error.code, f"{place}: {error}")
    return found


def _read_answer(item: dict[str, Any]) -> dict[str, Any]:
    target, answers = item.get("multiple_choice_answer"), item.get("answers", [])
    texts = [one.get("answer") if isinstance(one, dict) else one for one in answers] if isinstance(answers, list) else [None]
    if not isinstance(target, str):
        raise SampleError("bad_field", f"field 'multiple_choice_answer': {misfit(target, 'text')}")
    if not all(isinstance(text, str) for text in texts):
        raise SampleError("bad_field", f"field 'answers': {misfit(answers, 'a list of objects with an answer')}")
    types = {name: sys.intern(item[name]) for name in ("question_type", "answer_type") if isinstance(item.get(name), str)}
    return {"target": sys.intern(target), "answers": [sys.intern(str(text)) for text in texts], **types}


def _shape_vqa(source: DatasetSource) -> _Shape:
    prefix, ending = _find_image_names(source)

    def shape(fields: dict[str, Any], answers: _Answers, seen: set[str]) -> dict[str, Any]:
        identifier = _find_id(fields, "question_id", seen)
        found = answers.take(identifier)
        if found is None and source.annotations:
            name = Path(answers.path).name
            raise SampleError("bad_row", f"{name} has no annotation with question_id {identifier}; expected one for each question")
        image = fields.get("image_id")
        if not isinstance(image, int) or isinstance(image, bool):
            raise SampleError("bad_media", f"field 'image_id': {misfit(image, 'a whole number')}")
        return fields | (found or {}) | {"image": f"{prefix}{image:012}{ending}"}

    return shape


def _find_image_names(source: DatasetSource) -> tuple[str, str]:
    """Return the texts before and after the number in the names of the images. The images may be in a folder for the split."""
    found = {key: next(iterate_items(source, source.path, key), None) for key in ("data_type", "data_subtype")}
    kind, split = found["data_type"], found["data_subtype"]
    if not isinstance(split, str) or not split:
        raise ConfigError(
            f"dataset {source.name!r}: path: {source.path} has no data_subtype, so the names of its images are unknown; "
            'add it, for example "data_subtype": "val2014"'
        )
    split = split.replace("test-dev", "test")  # test-dev2015 is a subset of test2015 and uses its images
    folder = f"{split}/" if is_folder(f"{plan_reading(source).root}/{split}") else ""
    if isinstance(kind, str) and kind.startswith("abstract"):
        return f"{folder}{kind}_{split}_", ".png"
    return f"{folder}COCO_{split}_", ".jpg"


def _find_id(fields: dict[str, Any], name: str, seen: set[str]) -> str:
    """Return the id of an image or a question. Raises ``SampleError`` if it is not a valid id or occurs for the second time."""
    try:
        identifier = to_index(fields.get(name))
    except SampleError as error:
        raise SampleError(error.code, f"field {name!r}: {error}") from None
    if identifier in seen:
        raise SampleError("bad_row", f"field {name!r}: {identifier} is used twice; expected each id once")
    seen.add(identifier)
    return identifier


def _to_key(value: Any) -> str | None:
    try:
        return to_index(value)
    except SampleError:
        return None
