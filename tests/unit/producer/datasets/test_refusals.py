"""A dataset that cannot be run is refused immediately, and the message contains the lines of the spec that correct it."""

import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.errors import ConfigError
from common.spec.files import read_specs
from producer.datasets.survey import survey_specs
from tests.support.media.pictures import make_png, write_files

PNG = make_png()
ROLES = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A dog."}]
TURNS = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A dog."}]
COCO = json.dumps({"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 1, "image_id": 1, "caption": "A dog."}]})


def refuse(folder: Path, file: str, content: Any, **source: Any) -> str:
    """Return the message for a dataset that is refused."""
    text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    write_files(folder, {file: text, "a.png": PNG})
    (folder / "spec.yaml").write_text(json.dumps({"model": "echo", "datasets": [{"path": file, "name": "set", **source}]}))
    with pytest.raises(ConfigError) as caught, capture_logs() as lines:
        survey_specs(read_specs(folder / "spec.yaml"))
    assert [line["event"] for line in lines] == []
    return str(caught.value)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"chat": ROLES, "topic": "x"}, "columns: chat, topic; expected fields: {messages: chat} in the dataset"),
        ({"conversation_list": TURNS}, "columns: conversation_list; expected fields: {messages: conversation_list} in the dataset"),
        ({"chat": ROLES, "prompt": "x"}, "columns: chat, prompt; expected fields: {messages: chat} in the dataset"),
        ({"query": "Q?", "label": "x"}, "columns: query, label; expected fields: {question: query, target: label} in the dataset"),
        (
            {"ask": "Q?", "label": "x"},
            "columns: ask, label; expected fields: {question: COLUMN, target: label} in the dataset, or question: TEXT",
        ),
        ({"ask": "Q?", "image": "a.png"}, "columns: ask, image; expected question: TEXT in the dataset"),
    ],
)
def test_missing_question_names_columns_and_remedy(tmp_path: Path, row: dict[str, Any], expected: str) -> None:
    message = refuse(tmp_path, "rows.jsonl", [row, row])
    assert message.startswith(f"dataset 'set': {tmp_path}/rows.jsonl: no row has a question; {expected}")


def test_media_and_question_have_one_mapping(tmp_path: Path) -> None:
    message = refuse(tmp_path, "rows.jsonl", [{"query": "Q?", "img": "a.png", "label": "x"}])
    assert "expected fields: {question: query, target: label, image: img} in the dataset" in message


def test_table_with_unknown_names_has_one_mapping(tmp_path: Path) -> None:
    message = refuse(tmp_path, "rows.csv", "prompt,img,label\nQ?,a.png,x\n")
    assert "fields: {question: prompt, target: label, image: img}" in message


@pytest.mark.parametrize("source", [{"path": "pics"}, {"path": "captions.json", "format": "coco", "media_root": "pics"}])
def test_images_without_question_name_the_option(tmp_path: Path, source: dict[str, str]) -> None:
    write_files(tmp_path, {"pics/a.png": PNG})
    message = refuse(tmp_path, "captions.json", COCO, **source)
    assert "no row has a question" in message
    assert "expected question: TEXT in the dataset, which is the question of every row" in message


def test_missing_mapped_column_precedes_warnings(tmp_path: Path) -> None:
    message = refuse(tmp_path, "rows.jsonl", [{"question": "Q?", "image": "a.png", "label": "x"}], fields={"hint": "clue"})
    assert "fields.hint:" in message
    assert "has no field 'clue'" in message


@pytest.mark.parametrize("turns", [[], [3], [{"role": "user"}], ["a", "b"], "text"])
def test_other_lists_are_no_conversations(tmp_path: Path, turns: Any) -> None:
    assert "messages: chat" not in refuse(tmp_path, "rows.jsonl", [{"chat": turns}])
