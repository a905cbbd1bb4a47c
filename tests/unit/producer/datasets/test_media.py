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


def break_lines(text: str, line_end: str = "\n") -> str:
    """Return base64 text in lines of 76 characters, as in MIME."""
    return line_end.join(text[at : at + 76] for at in range(0, len(text), 76)) + line_end


# Two bytes follow the groups of three, so the base64 text has padding. It has both characters that differ in URLs.
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) + b"\xfb\xef\xbe\xff" * 20
SPELLINGS = {
    "MIME": break_lines,
    "MIME with CRLF": lambda text: break_lines(text, "\r\n"),
    "spaces around": lambda text: f"  {text}\n",
    "URL-safe": lambda text: text.replace("+", "-").replace("/", "_"),
    "without padding": lambda text: text.rstrip("="),
    "all of them": lambda text: break_lines(text.replace("+", "-").replace("/", "_").rstrip("="), "\r\n"),
}
FORMS = {
    "bare": lambda text: text,
    "data URL": lambda text: f"data:image/png;base64,{text}",
    "Hugging Face": lambda text: {"bytes": text, "path": "a.png"},
}


@pytest.mark.parametrize("content", [PICTURE, PICTURE * 40], ids=["small", "large"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_of_base64_is_read(spell: Any, form: Any, content: bytes) -> None:
    assert len(content) % 3
    text = to_text(content)
    assert "+" in text
    assert "/" in text
    spelled = spell(text)
    row = json.dumps(form(spelled)).encode()
    for place in (EMPTY_PLACE, Place("set.jsonl", row, 100)):
        (media,) = read(form(spelled), place)
        assert media.digest == digest_bytes(content)
        written = media.data.encode() if media.data else row[(media.offset or 0) - 100 :][: media.length]
        assert base64.b64decode(b"".join(written.split()), validate=True) == content  # as workers read it


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (to_text(PICTURE)[:80] + "*" + to_text(PICTURE)[80:], r"found '\*' in the base64 text of an image"),
        (
            to_text(b"BM" + PICTURE),
            r"found 'Qk2JUE5HDQoaCgABAgMEBQYH'… \(\d+ characters\); expected a path, a URL, or base64 behind",
        ),
        (break_lines(to_text(b"BM" + PICTURE)), r"found 'Qk2J.*'… \(\d+ characters\); expected a path"),
        (break_lines(to_text(PICTURE)).replace("iVBO", "{VBO"), r"found '\{VBO.*'… \(\d+ characters\); expected a path"),
        ("data:image/png;base64, \n", "found nothing in the base64 text of a data: URL"),
    ],
)
def test_unreadable_base64_is_not_a_missing_file(text: str, found: str) -> None:
    with pytest.raises(SampleError, match=found) as caught:
        read(text)
    assert caught.value.code == "bad_media"


@pytest.mark.parametrize(
    "path", ["/9j/" + "a" * 100 + ".png", "x" * 300 + ".png", "iVBORw0KGgo/a.png", "a b/c\nd.png", "/data/" * 20]
)
def test_long_path_is_a_path(path: str) -> None:
    (media,) = read(path)
    assert media.uri is not None
    assert media.uri.endswith(path)
