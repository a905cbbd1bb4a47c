"""Files that rows name and that workers could not read are found before the run starts."""

import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.errors import ConfigError
from common.settings import Settings
from common.spec.files import read_specs
from producer.datasets import media_files
from producer.datasets.survey import Notice, survey, survey_specs

GOOD = {"question": "a?", "image": "pics/good.png"}
DIALOG = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "gone.png"}}]}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set" / "pics").mkdir(parents=True)
    (tmp_path / "set" / "pics" / "good.png").write_bytes(b"good")
    (tmp_path / "other.png").write_bytes(b"other")
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "other.png")
    (tmp_path / "set" / "fine.png").symlink_to(tmp_path / "set" / "pics" / "good.png")
    return tmp_path


def find_missing(folder: Path, *rows: dict[str, Any], **source: Any) -> list[Notice]:
    (folder / "set" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"model": "echo", "datasets": [{"path": "set/rows.jsonl", **source}]}
    (folder / "spec.yaml").write_text(json.dumps(spec))
    _, notices = survey_specs(read_specs(folder / "spec.yaml"))
    return [notice for notice in notices if notice.event == "dataset.media_missing"]


@pytest.mark.parametrize(
    ("row", "column", "path", "reason"),
    [
        ({"question": "b?", "image": "gone.png"}, "image", "set/gone.png", "does not exist"),
        ({"question": "b?", "images": ["pics/good.png", "gone.png"]}, "images", "set/gone.png", "does not exist"),
        ({"question": "b?", "video": "gone.mp4"}, "video", "set/gone.mp4", "does not exist"),
        ({"question": "b?", "image": {"path": "gone.png"}}, "image", "set/gone.png", "does not exist"),
        ({"question": "b?", "image": "pics/good.png/x.png"}, "image", "set/pics/good.png/x.png", "does not exist"),
        (DIALOG, "messages", "set/gone.png", "does not exist"),
        ({"question": "b?", "image": "pics"}, "image", "set/pics", "is not a readable file"),
        ({"question": "b?", "image": "../other.png"}, "image", "set/../other.png", "is outside the folders"),
        ({"question": "b?", "image": "link.png"}, "image", "set/link.png", "is outside the folders"),
    ],
)
def test_rows_with_unreadable_files_are_noticed(folder: Path, row: dict[str, Any], column: str, path: str, reason: str) -> None:
    with capture_logs() as lines:
        (notice,) = find_missing(folder, GOOD, row, row)
    assert (notice.column, notice.path, notice.rows) == (column, f"{folder}/{path}", 2)
    assert reason in notice.hint
    (line,) = (line for line in lines if line["event"] == "dataset.media_missing")
    assert (line["column"], line["path"], line["rows"], line["hint"]) == (column, notice.path, 2, notice.hint)


@pytest.mark.parametrize("image", ["pics/good.png", "fine.png", "https://h/x.png", "data:image/png;base64,aaaa", 3])
def test_readable_media_are_not_noticed(folder: Path, image: Any) -> None:
    assert find_missing(folder, GOOD, {"question": "b?", "image": image}) == []


def test_media_roots_of_workers_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "get_settings", lambda: Settings(media_roots=str(folder)))
    assert find_missing(folder, GOOD, {"question": "b?", "image": "link.png"}) == []


def test_each_reason_has_its_notice(folder: Path) -> None:
    rows = [GOOD, *({"question": "b?", "image": image} for image in ("gone.png", "pics", "link.png"))]
    assert [notice.path for notice in find_missing(folder, *rows)] == [
        f"{folder}/set/{name}" for name in ("gone.png", "pics", "link.png")
    ]


@pytest.mark.parametrize("others", [[], [{"question": "No image?"}]])
def test_dataset_without_any_media_file_is_refused(folder: Path, others: list[dict[str, Any]]) -> None:
    rows = [{"question": f"{name}?", "image": f"{name}.png"} for name in "ab"]
    with capture_logs() as lines, pytest.raises(ConfigError) as caught:
        find_missing(folder, *rows, *others, media_root="images")
    message = str(caught.value)
    assert f"the media of all 2 rows with media are missing: the first, {folder}/set/images/a.png (field 'image')" in message
    assert f"media_root ({folder}/set/images)" in message
    assert "digest_media: never" in message
    assert lines == []


@pytest.mark.parametrize("images", [["gone.png", "pics/good.png"], "pics", "https://h/x.png"])
def test_dataset_with_other_media_is_not_refused(folder: Path, images: Any) -> None:
    """A file that is not readable here may be readable for the workers."""
    find_missing(folder, {"question": "a?", "image": "gone.png"}, {"question": "b?", "image": images})


def test_files_of_workers_alone_are_accepted(folder: Path) -> None:
    (notice,) = find_missing(folder, {"question": "a?", "image": "gone.png"}, digest_media="never")
    assert notice.rows == 1


def test_files_outside_the_roots_are_not_refused(folder: Path) -> None:
    """Workers may have other roots."""
    assert len(find_missing(folder, {"question": "a?", "image": "link.png"})) == 1


def test_files_above_the_limit_are_not_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_files, "MOST_FILES", 1)
    rows = [{"question": f"{name}?", "image": f"{name}.png"} for name in "abcd"]
    (notice,) = find_missing(folder, GOOD, *rows)
    assert notice.rows == 1
