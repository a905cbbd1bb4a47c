"""COCO captions and VQA: targets, names of images, and faults."""

import gzip
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.errors import ConfigError
from common.records import Sample
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from producer.datasets.registry import find_format

IMAGE = {"id": 9, "file_name": "000000000009.jpg", "height": 480, "width": 640, "license": 1}


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def captions(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"id": number, "image_id": image, "caption": caption} for number, (image, caption) in enumerate(pairs)]


def read(path: Path, **options: object) -> list[Sample]:
    return list(read_dataset(DatasetSource.model_validate({"path": str(path), "format": "coco", **options})))


def read_captions(folder: Path, images: list[Any], annotations: list[Any]) -> list[Sample]:
    path = write(folder / "captions.json", {"info": {}, "images": images, "licenses": [], "annotations": annotations})
    return read(path, question="Describe.")


def read_vqa(folder: Path, questions: list[Any], annotations: list[Any] | None, **options: object) -> list[Sample]:
    top = {"data_type": "mscoco", "data_subtype": "val2014", "info": {}, "license": {}}
    path = write(folder / "questions.json", {"task_type": "Open-Ended", "questions": questions, **top})
    if annotations is not None:
        options["annotations"] = str(write(folder / "annotations.json", {"annotations": annotations, **top}))
    return read(path, **options)


def answer(question_id: Any, text: Any = "red", answers: Any = ()) -> dict[str, Any]:
    listed = [{"answer": one, "answer_confidence": "yes", "answer_id": number} for number, one in enumerate(answers, start=1)]
    return {"question_id": question_id, "multiple_choice_answer": text, "answers": listed, "question_type": "what", "image_id": 42}


def question(question_id: Any, image_id: Any = 42) -> dict[str, Any]:
    return {"question_id": question_id, "image_id": image_id, "question": f"Q{question_id}?"}


def fault_of(sample: Sample) -> tuple[str, str]:
    assert sample.fault is not None
    return sample.fault.code, sample.fault.message


def test_captions_give_a_row_for_each_image(tmp_path: Path) -> None:
    images = [IMAGE, IMAGE | {"id": 25, "file_name": "val/25.jpg"}, IMAGE | {"id": 30, "file_name": "30.jpg"}]
    samples = read_captions(tmp_path, images, captions((25, "b1"), (9, "a1"), (9, "a2 "), (25, "b2"), (25, "b2")))
    assert [(sample.index, sample.target) for sample in samples] == [("9", ("a1", "a2")), ("25", ("b1", "b2", "b2")), ("30", ())]
    assert [sample.media[0].uri for sample in samples] == [f"{tmp_path}/{i['file_name']}" for i in images]
    assert samples[0].metadata == {"file_name": "000000000009.jpg", "height": 480, "width": 640, "license": 1}
    assert {sample.question for sample in samples} == {"Describe."}
    assert not any(sample.fault for sample in samples)


def test_vqa_joins_questions_and_answers(tmp_path: Path) -> None:
    annotations = [answer(421, "no", ["no"] * 9 + ["yes"]), answer(420, "red", ["red", "maroon"])]
    first, second = read_vqa(tmp_path, [question(420), question(421, 7)], annotations)
    assert (first.index, first.question, first.target, first.kind) == ("420", "Q420?", ("red",), "short_text")
    assert first.metadata == {"image_id": 42, "answers": ["red", "maroon"], "question_type": "what"}
    assert first.media[0].uri == f"{tmp_path}/COCO_val2014_000000000042.jpg"
    assert (second.target, second.kind) == (("no",), "yes_no")
    assert second.media[0].uri == f"{tmp_path}/COCO_val2014_000000000007.jpg"


def test_mapping_makes_all_answers_the_targets(tmp_path: Path) -> None:
    (sample,) = read_vqa(tmp_path, [question(1)], [answer(1, "red", ["red", "red", "pink"])], fields={"target": "answers"})
    assert sample.target == ("red", "red", "pink")


def test_vqa_without_annotations_has_no_targets(tmp_path: Path) -> None:
    (sample,) = read_vqa(tmp_path, [question(1)], None)
    assert (sample.target, sample.fault) == ((), None)


@pytest.mark.parametrize(
    ("top", "name"),
    [
        ({"data_type": "mscoco", "data_subtype": "test-dev2015"}, "COCO_test2015_000000000042.jpg"),
        ({"data_type": "abstract_v002", "data_subtype": "val2015"}, "abstract_v002_val2015_000000000042.png"),
        ({"data_subtype": "in_folder"}, "in_folder/COCO_in_folder_000000000042.jpg"),
    ],
)
def test_image_name_follows_the_split(tmp_path: Path, top: dict[str, str], name: str) -> None:
    (tmp_path / "in_folder").mkdir()
    (sample,) = read(write(tmp_path / "questions.json", {"questions": [question(1)], **top}))
    assert sample.media[0].uri == f"{tmp_path}/{name}"


@pytest.mark.parametrize(
    ("image", "annotation", "code", "part"),
    [
        (IMAGE | {"id": 8, "file_name": None}, None, "bad_media", "images[1]: field 'file_name': found None"),
        ({"id": 8}, None, "bad_media", "field 'file_name': found None (null); expected the path of an image"),
        ({"file_name": "8.jpg"}, None, "bad_field", "field 'id': found None (null); expected a whole number"),
        (IMAGE, None, "bad_row", "field 'id': 9 is used twice"),
        (["x"], None, "bad_row", "found ['x'] (a list); expected a JSON object"),
        (IMAGE | {"id": 8}, (8, 5), "bad_field", "annotations[1]: field 'caption': found 5 (a number); expected text"),
    ],
)
def test_bad_image_is_a_fault(tmp_path: Path, image: Any, annotation: Any, code: str, part: str) -> None:
    pairs = [(9, "good"), *([annotation] if annotation else [])]
    good, bad = read_captions(tmp_path, [IMAGE, image], captions(*pairs))
    assert (good.fault, good.target) == (None, ("good",))
    assert (fault_of(bad)[0], part in fault_of(bad)[1]) == (code, True)


@pytest.mark.parametrize(
    ("asked", "annotation", "code", "part"),
    [
        (question(2), answer(3), "bad_row", "annotations.json has no annotation with question_id 2"),
        (question(2, "42"), answer(2), "bad_media", "field 'image_id': found '42' (text); expected a whole number"),
        (question(2, True), answer(2), "bad_media", "field 'image_id'"),
        (question(2) | {"question": ""}, answer(2), "missing_question", "questions.json: questions[1]: field 'question'"),
        (question(1), answer(2), "bad_row", "field 'question_id': 1 is used twice"),
        (question(None), answer(2), "bad_field", "field 'question_id': found None"),
        (question(2), answer(2, None), "bad_field", "annotations.json: annotations[1]: field 'multiple_choice_answer': found None"),
        (question(2), answer(2, "x", [3]), "bad_field", "field 'answers'"),
        (question(2), answer(2) | {"answers": "x"}, "bad_field", "field 'answers': found 'x' (text); expected a list of objects"),
    ],
)
def test_bad_question_is_a_fault(tmp_path: Path, asked: Any, annotation: Any, code: str, part: str) -> None:
    good, bad = read_vqa(tmp_path, [question(1), asked], [answer(1), annotation])
    assert (good.fault, good.target) == (None, ("red",))
    assert (fault_of(bad)[0], part in fault_of(bad)[1]) == (code, True)


def test_unused_annotations_are_reported(tmp_path: Path) -> None:
    with capture_logs() as logs:
        read_vqa(tmp_path, [question(1)], [answer(1), answer(2), answer(None), "x"])
    assert [(event["event"], event["annotations"]) for event in logs] == [("dataset.annotations_unused", 3)]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "is not JSON"),
        ('{"images": [{"id": 1}', "is not JSON"),
        ("[]", "holds no rows"),
        ("{}", "holds no rows"),
        ('{"images": [{"id": 1, "file_name": "\\udc80"}]}', "has a lone surrogate"),
        ('{"questions": [{"question_id": 1}]}', "has no data_subtype, so the names of its images are unknown"),
        ('{"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": [1]}]}', "have no captions; expected a captions file"),
    ],
)
def test_other_file_is_refused(tmp_path: Path, content: str, part: str) -> None:
    (tmp_path / "set.json").write_text(content)
    with pytest.raises(ConfigError, match=part):
        read(tmp_path / "set.json")


def test_annotations_without_questions_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "set.json", {"images": [IMAGE]})
    with pytest.raises(ConfigError, match=r"has no questions, but the dataset has annotations; expected path: QUESTIONS\.json"):
        read(path, annotations=str(path))


def test_large_file_is_streamed(tmp_path: Path) -> None:
    source = random.Random(0)
    questions = [question(number) | {"padding": source.randbytes(1000).hex()} for number in range(10_000)]
    path = write(tmp_path / "questions.json", {"data_subtype": "val2014", "questions": questions})
    del questions
    tracemalloc.start()
    try:
        rows = sum(1 for _ in read_dataset(DatasetSource(path=str(path), format="coco")))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == 10_000
    assert peak_bytes < 5 * 2**20


@pytest.mark.parametrize(
    ("content", "is_coco"),
    [
        ({"info": {}, "images": [IMAGE], "annotations": captions((9, "A dog."))}, True),
        ({"images": [IMAGE], "annotations": captions((9, "A dog."))}, True),
        ({"info": {}, "data_subtype": "val2014", "questions": [question(420)]}, True),
        ({"images": [[{"file_name": "a.png"}]], "question": ["Q?"]}, False),
        ({"images": [{"file_name": "a.png", "path": "a.png"}], "question": ["Q?"]}, False),
        ({"images": ["a.png"], "annotations": ["x"]}, False),
        ([{"images": [IMAGE], "question": "Q?"}], False),
    ],
)
def test_format_is_found_from_the_content(tmp_path: Path, content: Any, is_coco: bool) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content, indent=2))
    assert (find_format(DatasetSource(path=str(path))) == "coco") is is_coco


def test_compressed_files_are_read(tmp_path: Path) -> None:
    read_captions(tmp_path, [IMAGE], captions((9, "A cat.")))
    path = compress(tmp_path / "captions.json")
    assert find_format(DatasetSource(path=str(path))) == "coco"
    (sample,) = read(path, question="Describe.")
    assert (sample.target, sample.fault) == (("A cat.",), None)
    (plain,) = read_vqa(tmp_path, [question(1)], [answer(1)])
    packed = {name: str(compress(tmp_path / f"{name}.json")) for name in ("questions", "annotations")}
    assert read(Path(packed["questions"]), annotations=packed["annotations"]) == [plain]


def test_cut_compressed_file_is_refused(tmp_path: Path) -> None:
    read_captions(tmp_path, [IMAGE], captions((9, "A cat.")))
    path = compress(tmp_path / "captions.json")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="the compressed file is cut or damaged"):
        read(path, question="Describe.")


def compress(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed
