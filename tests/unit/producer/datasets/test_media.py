"""The forms of media in a row. All forms give the same digest for the same bytes."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.digests import digest_bytes
from common.errors import SampleError
from common.records import Media
from producer.datasets.media import INLINE_LIMIT_BYTES, Place, embed, read_references

SMALL, LARGE = b"picture", bytes(range(256)) * 40
EMPTY_PLACE = Place("set.parquet", b"", None)


def to_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def read(value: Any, place: Place = EMPTY_PLACE) -> list[Media]:
    return [reference.media for reference in read_references(value, "image", place, "/root")]


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    "form",
    [
        lambda content: content,
        lambda content: {"bytes": content, "path": "a.png"},
        lambda content: {"bytes": to_text(content), "path": None},
        lambda content: {"bytes": f"data:image/png;base64,{to_text(content)}"},
        lambda content: {"url": f"data:image/png;base64,{to_text(content)}"},
        lambda content: f"data:image/png;base64,{to_text(content)}",
        lambda content: [{"bytes": content}],
    ],
)
def test_bytes_in_every_form_have_one_digest(content: bytes, form: Any) -> None:
    assert read(form(content)) == [Media(data=to_text(content), digest=digest_bytes(content))]


@pytest.mark.parametrize("magic", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF"])
def test_base64_of_an_image_is_no_path(magic: bytes) -> None:
    content = magic + bytes(100)
    assert read(to_text(content)) == [Media(data=to_text(content), digest=digest_bytes(content))]
    assert read(f"/9j/{'a' * 100}.png") == [Media(uri=f"/9j/{'a' * 100}.png")]


@pytest.mark.parametrize(
    ("value", "uri"),
    [
        ({"path": "a.png", "bytes": None}, "/root/a.png"),
        ({"path": "a.png", "bytes": ""}, "/root/a.png"),
        ({"url": "https://h/a.png"}, "https://h/a.png"),
        ({"url": "a.png", "detail": "high"}, "/root/a.png"),
    ],
)
def test_object_without_bytes_names_a_place(value: Any, uri: str) -> None:
    assert read(value) == [Media(uri=uri)]


@pytest.mark.parametrize("value", [{"path": None, "bytes": None}, {}, {"bytes": 3}, [None], None, 7, [[b"x"]]])
def test_value_without_media_is_a_bad_field(value: Any) -> None:
    with pytest.raises(SampleError) as caught:
        read(value)
    assert caught.value.code == "bad_field"


@pytest.mark.parametrize("value", [b"", [b""], {"bytes": "not base64!"}])
def test_unusable_bytes_are_bad_media(value: Any) -> None:
    with pytest.raises(SampleError) as caught:
        read(value)
    assert caught.value.code == "bad_media"


def test_large_base64_of_an_object_stays_in_the_file() -> None:
    row = json.dumps({"image": {"bytes": to_text(LARGE), "path": None}}).encode()
    (media,) = read(json.loads(row)["image"], Place("set.jsonl", row, 100))
    assert (media.uri, media.encoding, media.digest) == ("set.jsonl", "base64", digest_bytes(LARGE))
    assert media.offset is not None
    assert media.length is not None
    assert media.length > INLINE_LIMIT_BYTES
    assert base64.b64decode(row[media.offset - 100 :][: media.length]) == LARGE


@given(st.binary(min_size=1))
def test_digest_is_of_the_decoded_bytes(content: bytes) -> None:
    for offset in (None, 10):
        assert embed(base64.b64encode(content), "image", "f", offset).media.digest == digest_bytes(content)


@given(st.text("ABCDabcd0123+/=", min_size=1))
def test_text_that_is_not_base64_still_has_a_digest(text: str) -> None:
    assert embed(text.encode(), "image", "f", None).media.digest
