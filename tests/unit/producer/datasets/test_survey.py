"""The survey: the kind of a dataset, and unused columns that look like a field."""

import base64
import io
import json
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from structlog.testing import capture_logs

from common.errors import ConfigError
from common.spec.dataset_files import IMAGE_ENDINGS, VIDEO_ENDINGS
from common.spec.files import read_specs
from common.spec.models import DatasetSource
from common.spec.prompts import MultiTurn, PromptSpec
from producer import progress
from producer.datasets import read_dataset
from producer.datasets.collections import webdataset
from producer.datasets.rows import Row, plan_reading
from producer.datasets.samples import to_sample
from producer.datasets.survey import Notice, facts, survey_dataset, survey_specs
from tests.support.datasets import read_rows

PNG = b"\x89PNG\r\n\x1a\n" + bytes(60)
PNG_TEXT = base64.b64encode(PNG).decode()

Fields = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one.png", "two.png", "clip.mp4"):
        (tmp_path / name).write_bytes(PNG)
    return tmp_path


def write(folder: Path, rows: list[Fields]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def find_notices(folder: Path, rows: list[Fields], **source: Any) -> list[tuple[str | None, str | None, int]]:
    """Return column, suggested field and rows of each notice."""
    notices = survey_dataset(DatasetSource(path=str(write(folder, rows)), **source)).notices
    return [(notice.column, notice.looks_like, notice.rows) for notice in notices]


KINDS: dict[str, tuple[list[Fields], list[str]]] = {
    "all yes or no": ([{"answer": "Yes"}, {"answer": "no"}], ["yes_no", "yes_no"]),
    "some yes or no": ([{"answer": "Yes"}, {"answer": "red"}], ["short_text", "short_text"]),
    "all numbers": ([{"answer": 7}, {"answer": "1,234"}], ["number", "number"]),
    "some numbers": ([{"answer": 7}, {"answer": "seven"}], ["short_text", "short_text"]),
    "no answers": ([{}, {}], ["free_text", "free_text"]),
    "some answers": ([{}, {"answer": "red"}], ["short_text", "short_text"]),
    "yes and absent": ([{}, {"answer": "yes"}], ["yes_no", "yes_no"]),
    "number and yes": ([{"answer": 7}, {"answer": "yes"}], ["short_text", "short_text"]),
    "rows with options do not count": ([{"options": ["yes", "no"], "answer": "no"}, {"answer": 7}], ["multiple_choice", "number"]),
    "rows with a kind do not count": ([{"kind": "free_text", "answer": "red"}, {"answer": "no"}], ["free_text", "yes_no"]),
    "faulty rows do not stop it": ([{"answer": {"text": "a"}}, {"answer": "no"}], ["yes_no", "yes_no"]),
    "answers of annotators": ([{"answers": [{"answer": "yes", "answer_confidence": "no"}]}], ["yes_no"]),
    "last turns of conversations about a video": (
        [
            {
                "video": "data:video/mp4;base64,AAAA",
                "messages": [{"from": "human", "value": "<video>\nIs it?"}, {"from": "gpt", "value": "No"}],
            }
        ],
        ["yes_no"],
    ),
    "last turns of conversations": (
        [{"messages": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "No"}]}],
        ["yes_no"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "kinds"), KINDS.values(), ids=KINDS)
def test_kind_comes_from_all_rows(tmp_path: Path, rows: list[Fields], kinds: list[str]) -> None:
    rows = [row if "messages" in row else {"question": f"{number}?", **row} for number, row in enumerate(rows)]
    assert [sample.kind for sample in read_rows(tmp_path, *rows)] == kinds


ANSWERS = st.sampled_from(["yes", "No", "7", "1,000", "red", "a cat", None])


@given(st.lists(ANSWERS, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_kind_does_not_show_the_target_of_a_row(
    tmp_path_factory: pytest.TempPathFactory, answers: list[str | None], random: Any
) -> None:
    """All rows without options have one kind, and their order does not matter."""
    folder = tmp_path_factory.mktemp("rows")
    rows = [{"question": "Q?", "answer": answer} for answer in answers]
    kinds = {sample.kind for sample in read_rows(folder, *rows)}
    assert len(kinds) == 1
    assert {sample.kind for sample in read_rows(folder, *random.sample(rows, len(rows)))} == kinds


def test_survey_reads_no_images_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "1.png"
    image.write_bytes(PNG)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(image, "1.png")
    source = DatasetSource(path=str(tmp_path / "set.tar"), name="set", question="What?", digest_media="always")
    digested: list[int] = []

    def note_digest(_: object, size: int) -> str:
        digested.append(size)
        return "0"

    monkeypatch.setattr(webdataset, "digest_stream", note_digest)
    assert survey_dataset(source).source.digest_media == "always"
    assert digested == []
    [sample] = read_dataset(source)
    assert (sample.media[0].digest, digested) == ("0", [len(PNG)])


def test_limit_bounds_the_surveyed_rows(tmp_path: Path) -> None:
    rows = [{"question": "1?", "answer": "yes"}, {"question": "2?", "answer": "red"}]
    assert [sample.kind for sample in read_rows(tmp_path, *rows, limit=1)] == ["yes_no"]


@pytest.mark.parametrize("ending", sorted(IMAGE_ENDINGS | VIDEO_ENDINGS))
def test_every_ending_of_media_is_noticed(folder: Path, ending: str) -> None:
    field = "image" if ending in IMAGE_ENDINGS else "video"
    assert find_notices(folder, [{"question": "Q?", "thing": f"https://a/b{ending}"}]) == [("thing", field, 1)]


def test_each_enqueue_of_a_process_logs_skipped_files(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png", "b.txt", "b.png.txt", "c.pdf"):
        (photos / name).write_bytes(PNG)
    captions = {"images": [{"id": 1, "file_name": "photos/a.png"}], "annotations": [{"image_id": 2, "caption": "A cat."}]}
    (tmp_path / "coco.json").write_text(json.dumps(captions))
    datasets = [{"path": "photos", "question": "What?"}, {"path": "coco.json", "format": "coco", "question": "What?"}]
    (tmp_path / "spec.yaml").write_text(json.dumps({"model": "echo", "datasets": datasets}))
    for _ in range(2):
        with capture_logs() as lines:
            (spec,), _notices = survey_specs(read_specs(tmp_path / "spec.yaml"))
            for source in spec.datasets:
                assert list(read_dataset(source))
        events = ["dataset.annotations_unused", "dataset.captions_doubled", "dataset.files_skipped"]
        assert sorted(line["event"] for line in lines) == events


UNUSED_MEDIA: dict[str, Any] = {
    "path": "one.png",
    "paths": ["one.png", "two.png"],
    "data URL": f"data:image/png;base64,{PNG_TEXT}",
    "base64": PNG_TEXT,
    "object with path": {"path": "one.png", "bytes": None},
    "object with bytes": {"bytes": PNG_TEXT, "path": "elsewhere.png"},
    "object with url": {"url": f"data:image/png;base64,{PNG_TEXT}"},
}


@pytest.mark.parametrize("value", UNUSED_MEDIA.values(), ids=UNUSED_MEDIA)
def test_unused_media_are_refused(folder: Path, value: Any) -> None:
    rows = [{"question": "What?", "figure": value}, {"question": "Why?", "figure": None}]
    with pytest.raises(ConfigError) as caught:
        find_notices(folder, rows)
    assert "column 'figure' holds media in 1 rows" in str(caught.value)
    assert "expected fields: {image: figure} in the dataset, or ignore: [figure]" in str(caught.value)
    assert find_notices(folder, rows, ignore=["figure"]) == []
    assert find_notices(folder, rows, fields={"image": "figure"}) == []


@pytest.mark.parametrize("value", [PNG, {"bytes": PNG, "path": None}, [PNG]])
def test_unused_bytes_are_refused(tmp_path: Path, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet and Arrow files hold bytes."""
    row = Row(0, 1, b"", fields={"question": "What?", "figure": value})
    monkeypatch.setattr(facts, "find_reader", lambda _source: lambda _source: iter([row]))
    with pytest.raises(ConfigError, match="column 'figure' holds media in 1 rows"):
        survey_dataset(DatasetSource(path=str(tmp_path / "set.parquet")))


def test_bytes_are_not_kept_as_metadata() -> None:
    row = Row(0, 1, b"", fields={"question": "What?", "thumbnail": {"bytes": PNG, "size": 3}})
    sample = to_sample(row, plan_reading(DatasetSource(path="/data/set.parquet")))
    assert sample.metadata == {"thumbnail": {"bytes": "(68 bytes)", "size": 3}}


def test_unused_video_is_refused_with_its_field(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected fields: \{video: film\}"):
        find_notices(folder, [{"question": "What?", "film": "clip.mp4"}])


@pytest.mark.parametrize(
    ("row", "notices"),
    [
        ({"question": "Q?", "pic": "nowhere.png"}, [("pic", "image", 2)]),
        ({"question": "Q?", "source": "https://h/one.png"}, [("source", "image", 2)]),
        ({"question": "Q?", "image": "one.png", "second": "two.png"}, [("second", "image", 2)]),
        ({"question": "Q?", "image": "one.png", "source": "where.png"}, []),
        ({"question": "Q?", "img": 7}, [("img", "image", 2)]),
        ({"question": "Q?", "clip_id": "c1"}, [("clip_id", "video", 2)]),
        ({"query": "Q?"}, [("query", "question", 2)]),
        ({"question": "Q?", "query": "Q?"}, []),
        ({"question": "Q?", "Question": "Other?"}, [("Question", "question", 2)]),
        ({"question": "Q?", "question ": "Other?"}, [("question ", "question", 2)]),
        ({"Question": "Q?"}, [("Question", "question", 2)]),
        ({"question": "Q?", "anwser": "x"}, [("anwser", "target", 2)]),
        ({"question": "Q?", "label": "x"}, [("label", "target", 2)]),
        ({"question": "Q?", "label": "x", "answer": "y"}, []),
        ({"question": "Q?", "label": None}, []),
        ({"question": "Q?", "label": " "}, []),
        ({"question": "Q?", "candidates": "x or y"}, [("candidates", "options", 2)]),
        ({"question": "Q?", "list": ["x", "y"], "answer": "y"}, [("list", "options", 2)]),
        ({"question": "Q?", "list": "['x', 'y']", "answer": "B"}, [("list", "options", 2)]),
        ({"question": "Q?", "tags": ["x", "y"], "answer": "z"}, []),
        ({"question": "Q?", "A": "x", "B": "y", "answer": "A"}, []),
        ({"question": "Q?", "A": "x", "B": "y", "options": ["x", "y"], "answer": "A"}, [("A", "options", 2)]),
        ({"question": "Q?", "category": "x", "id": 1, "split": "test", "question_type": "open"}, []),
        ({"question": "Look at <image 1>."}, [(None, None, 2)]),
        ({"question": "Which?", "options": ["<image 1>", "<image 2>"]}, [(None, None, 2)]),
        ({"question": "Look at <image>.", "image": "one.png"}, []),
    ],
)
def test_columns_that_should_be_used_are_noticed(folder: Path, row: Fields, notices: list[tuple[str, str, int]]) -> None:
    assert find_notices(folder, [row, row]) == notices
    named = {str(column): column for column, _, _ in notices if column}
    if "A" in named:
        named["B"] = "B"
    assert find_notices(folder, [row, row], ignore=list(named)) == [notice for notice in notices if notice[0] is None]


def test_notices_are_logged_with_their_remedy(folder: Path) -> None:
    write(folder, [{"question": "Look at <image 1>.", "label": "x"}])
    (folder / "spec.yaml").write_text(json.dumps({"model": "echo", "datasets": [{"path": "rows.jsonl"}]}))
    with capture_logs() as lines:
        _, notices = survey_specs(read_specs(folder / "spec.yaml"))
    assert [line["event"] for line in lines] == ["dataset.column_unused", "dataset.marker_without_media"]
    assert lines[0]["hint"] == "use it with fields: {target: label}, or leave it out with ignore: [label]"
    assert [Notice(**{name: line[name] for name in Notice.model_fields if name in line}) for line in lines] == notices


def test_survey_of_many_columns_is_bounded(tmp_path: Path) -> None:
    rows = [Row(number, 1, b"", fields={"question": "Q?", f"column {number}": "x"}) for number in range(3000)]
    found = facts.Facts(DatasetSource(path=str(tmp_path / "rows.jsonl")))
    for row in rows:
        found.add_row(row)
    assert len(found.columns) == 1000


def test_column_that_names_a_used_file_is_not_suggested(folder: Path) -> None:
    """Folders of images and COCO keep the names of their files as metadata."""
    rows = [{"question": "What?", "image": "one.png", "file_name": "one.png", "place": f"{folder}/one.png"}]
    assert find_notices(folder, rows) == []
    assert [column for column, *_ in find_notices(folder, [row | {"second": "two.png"} for row in rows])] == ["second"]


def test_only_the_media_that_rows_show_are_surveyed(folder: Path) -> None:
    """``image`` precedes ``image_path``."""
    row = {"question": "What?", "image": "one.png", "image_path": "missing.png"}
    survey = survey_dataset(DatasetSource(path=str(write(folder, [row]))))
    assert survey.notices == ()
    assert (
        survey.source.media_digest
        == survey_dataset(DatasetSource(path=str(write(folder, [row | {"image_path": None}])))).source.media_digest
    )


def test_survey_shows_its_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(progress, "Console", partial(Console, file=shown, force_terminal=True, width=80))
    assert find_notices(tmp_path, [{"question": f"{number}?"} for number in range(600)]) == []
    assert "surveying rows: 512 (" in shown.getvalue()


def test_ignored_column_is_not_kept_as_metadata(tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, {"question": "Q?", "image": "a.png", "topic": "x", "note": "y"}, ignore=["image", "note"])
    assert (sample.media, sample.metadata) == ((), {"topic": "x"})


def test_survey_keeps_the_run_id(folder: Path) -> None:
    write(folder, [{"question": "Q?", "answer": "yes"}])
    (folder / "spec.yaml").write_text(json.dumps({"model": "echo", "datasets": [{"path": "rows.jsonl"}]}))
    specs = read_specs(folder / "spec.yaml")
    (spec,), _ = survey_specs(specs)
    assert spec.datasets[0].found_kind == "yes_no"
    assert spec.run_id == specs[0].run_id
    ignoring = spec.model_copy(update={"datasets": (spec.datasets[0].model_copy(update={"ignore": ("note",)}),)})
    assert ignoring.run_id != spec.run_id


CONVERSATION = {"messages": [{"role": "user", "content": "1?"}]}
ANSWERED = {"messages": [*CONVERSATION["messages"], {"role": "assistant", "content": "one"}, {"role": "user", "content": "2?"}]}
UNANSWERED = {"messages": [*CONVERSATION["messages"], {"role": "user", "content": "2?"}]}


@pytest.mark.parametrize(
    ("multi_turn", "rows", "hints"),
    [
        ("given", [CONVERSATION], []),
        ("ask", [CONVERSATION], []),
        (
            "given",
            [CONVERSATION, ANSWERED],
            [(1, "each row is one request, with the written answers to its earlier turns; prompt:")],
        ),
        ("ask", [ANSWERED, UNANSWERED], [(2, "the written answers to the earlier turns of 1 rows are not sent")]),
        ("ask", [UNANSWERED], [(1, "and each request contains the model's own answers to the earlier turns")]),
    ],
)
def test_rows_with_several_turns_are_reported(
    folder: Path, multi_turn: str, rows: list[Fields], hints: list[tuple[int, str]]
) -> None:
    write(folder, rows)
    spec = {"model": "echo", "datasets": [{"path": "rows.jsonl"}], "prompt": {"multi_turn": multi_turn}}
    (folder / "spec.yaml").write_text(json.dumps(spec))
    with capture_logs() as lines:
        _, notices = survey_specs(read_specs(folder / "spec.yaml"))
    assert [(line["event"], line["log_level"]) for line in lines] == [("dataset.several_turns", "info")] * len(hints)
    for notice, (count, hint) in zip(notices, hints, strict=True):
        assert notice.rows == count
        assert hint in notice.hint


@pytest.mark.parametrize("multi_turn", ["given", "ask"])
def test_other_models_of_the_spec_do_not_change_the_survey(folder: Path, multi_turn: str) -> None:
    """Lists of turns are conversations only if the turns are asked, so the kind of the other rows depends on it."""
    write(folder, [{"question": "['One?', 'Two?']", "answer": "blue"}, {"question": "Is it?", "answer": "yes"}])
    (folder / "spec.yaml").write_text(json.dumps({"model": "echo", "datasets": [{"path": "rows.jsonl"}]}))
    (spec,) = read_specs(folder / "spec.yaml")
    both = [spec.model_copy(update={"prompt": PromptSpec(multi_turn=mode)}) for mode in MultiTurn]
    (alone,), _ = survey_specs([one for one in both if one.prompt.multi_turn == multi_turn])
    together, _ = survey_specs(both)
    assert alone in together


@pytest.mark.parametrize(
    ("prompt", "rows", "events"),
    [
        ({"template": "{{ question }}!"}, [CONVERSATION], ["prompt.template_unused"]),
        ("question_only", [CONVERSATION], ["prompt.template_unused"]),
        ({"turns": [{"role": "user", "text": "{{ question }}"}]}, [CONVERSATION, CONVERSATION], ["prompt.template_unused"]),
        ({"template": "{{ question }}!"}, [CONVERSATION, {"question": "2?"}], []),
        ({"suffix": "Be brief."}, [CONVERSATION], []),
        ({}, [CONVERSATION], []),
    ],
)
def test_template_without_rows_is_noticed(folder: Path, prompt: Any, rows: list[Fields], events: list[str]) -> None:
    write(folder, rows)
    (folder / "spec.yaml").write_text(json.dumps({"model": "echo", "datasets": [{"path": "rows.jsonl"}], "prompt": prompt}))
    with capture_logs() as lines:
        _, notices = survey_specs(read_specs(folder / "spec.yaml"))
    assert [line["event"] for line in lines] == [notice.event for notice in notices] == events
    assert [notice.rows for notice in notices] == [len(rows)] * len(events)
