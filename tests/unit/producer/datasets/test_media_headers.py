"""The size of an image is read from its header, for every place of the image. If the size cannot be read, a reason is given."""

import base64
import io
import os
from pathlib import Path

import pytest
from PIL import Image

from common.records import Media
from producer.datasets.media_headers import read_header


def encode(kind: str, size: tuple[int, int] = (31, 17)) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", size, "red").save(sink, kind)
    return sink.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_size_is_read_from_every_place(tmp_path: Path, kind: str) -> None:
    content = encode(kind)
    text = base64.b64encode(content)
    whole, raw, coded = tmp_path / "whole", tmp_path / "raw", tmp_path / "coded"
    whole.write_bytes(content)
    raw.write_bytes(b"before" + content + b"after")
    coded.write_bytes(b'{"image": "' + text + b'"}')
    media = [
        Media(uri=str(whole)),
        Media(uri=whole.as_uri()),
        Media(data=text.decode()),
        Media(uri=str(raw), offset=6, length=len(content)),
        Media(uri=str(coded), offset=11, length=len(text), encoding="base64"),
    ]
    headers = [read_header(one) for one in media]
    assert [(header.width, header.height, header.problem) for header in headers] == [(31, 17, None)] * len(media)


def test_only_the_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(encode("PNG", (4000, 3000))[:200])
    assert (read_header(Media(uri=str(path))).width, read_header(Media(uri=str(path))).height) == (4000, 3000)


def write_dirty(folder: Path) -> None:
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("not an image")
    (folder / "cut.png").write_bytes(encode("PNG")[:20])
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "huge.png").write_bytes(b"P6 100000 100000 255\n")
    (folder / "signs.png").write_bytes(b"@@@@@@@@")


@pytest.mark.parametrize(
    ("media", "problem"),
    [
        ({"uri": "missing.png"}, "no file at this path"),
        ({"uri": "folder.png"}, "no file at this path"),
        ({"uri": "pipe.png"}, "no file at this path"),
        ({"uri": "a\0b.png"}, "no file at this path"),
        ({"uri": "empty.png"}, "an empty file"),
        ({"uri": "text.png"}, "not an image"),
        ({"uri": "huge.png"}, "too many pixels"),
        ({"uri": "text.png", "offset": 100, "length": 9}, "not an image"),
        ({"uri": "signs.png", "offset": 0, "length": 8, "encoding": "base64"}, "not base64"),
        ({"data": "éééé"}, "not base64"),
        ({"data": ""}, "not an image"),
        ({"uri": "https://host/a.png"}, "a URL, which is not fetched"),
        ({"uri": "s3://bucket/a.png"}, "a URL, which is not fetched"),
    ],
)
def test_unreadable_image_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, media: dict[str, object], problem: str
) -> None:
    write_dirty(tmp_path)
    monkeypatch.chdir(tmp_path)
    header = read_header(Media.model_validate(media))
    assert (header.width, header.height, header.problem) == (None, None, problem)


def test_damaged_header_has_a_reason(tmp_path: Path) -> None:
    write_dirty(tmp_path)
    problem = read_header(Media(uri=str(tmp_path / "cut.png"))).problem
    assert problem is not None
    assert "image" in problem


def test_video_has_no_size(tmp_path: Path) -> None:
    header = read_header(Media(kind="video", uri=str(tmp_path / "missing.mp4")))
    assert (header.kind, header.width, header.problem) == ("video", None, None)


def test_place_never_holds_the_image() -> None:
    assert read_header(Media(data=base64.b64encode(encode("PNG")).decode())).place.startswith("inline, ")
    assert read_header(Media(uri="/a.tar", offset=512, length=1000)).place == "/a.tar, 1,000 bytes at 512"
