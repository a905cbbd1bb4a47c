"""The media of a row: inline base64, a path or URL, or a byte range of the dataset file, each with its content key.

The value of a field has one of these forms:

- a text: a data URL, a URL, a path, or the base64 text of an image,
- bytes,
- an object: ``{"bytes", "path"}`` of Hugging Face datasets (in JSON, the bytes are base64 text), or ``{"url"}`` of OpenAI,
- a list of these, or a text that spells a list of texts.

``Media.digest`` is the digest of the decoded bytes, so the same image has the same digest in every form. Bytes that are not a byte
range of the file are copied into the plan as base64.

The key is part of ``sample_id`` and ``group``. For embedded media, the key is a digest of the base64 text and does not depend on
the place of the text, so equal images have equal keys. For a file, the key is a digest of its content if ``survey`` has computed a
digest for the dataset. For a URL, and for a file that counts by path only, the key is the reference as written in the row. So a
dataset keeps its ids when it is moved to another folder or machine.
"""

import base64
import binascii
import os
import stat
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from common.digests import digest_bytes
from common.errors import SampleError
from common.records import Media
from common.storage.addresses import is_remote
from common.storage.remote_files import find_remote_state
from producer.datasets.fields import misfit
from producer.datasets.values.base64_text import check_characters, is_base64_image, refuse_text, standardize
from producer.datasets.values.literals import read_texts

MediaKind = Literal["image", "video"]

INLINE_LIMIT_BYTES = 8 * 1024
_PATH_LIMIT = 4096
_SCHEME_LIMIT = 16


class Reference(NamedTuple):
    """One image or video of a sample, and its content key."""

    media: Media
    key: str


class Place(NamedTuple):
    """The bytes of a row, their file, and their offset (``None`` if the file does not contain the bytes unchanged)."""

    path: str
    content: bytes
    offset: int | None


def read_references(value: Any, kind: MediaKind, place: Place, root: str) -> list[Reference]:
    """Return the media in a value or a list of values. Omit blank texts. Raises ``SampleError``."""
    found = [_read_value(one, kind, place, root) for one in list_media(value)]
    return [reference for reference in found if reference]


def list_media(value: Any) -> list[Any]:
    """Return the values in the value of a media field. A text may spell a list of texts, as in a table (``['a.png', 'b.png']``)."""
    if isinstance(value, str):
        if value.strip() == "[]":
            return []
        return (read_texts(value) if value[:1] == "[" else None) or [value]
    return value if isinstance(value, list) else [value]


def _read_value(value: Any, kind: MediaKind, place: Place, root: str) -> Reference | None:
    if isinstance(value, dict):
        return _read_object(value, kind, place, root)
    if isinstance(value, bytes):
        if not value:
            raise SampleError("bad_media", f"found 0 bytes; expected the bytes of a file with an {kind}")
        return embed_bytes(value, kind)
    if not isinstance(value, str):
        raise misfit(value, "a data: URL, a URL or a path, bytes, an object with bytes, path or url, or a list of these")
    return _read_text(value, kind, place, root) if value and not value.isspace() else None


def _read_object(value: dict[str, Any], kind: MediaKind, place: Place, root: str) -> Reference | None:
    """Return the media of an object. Its bytes take precedence over its path, as in Hugging Face datasets."""
    content = find_content(value)
    if content is None:
        raise misfit(value, "an object with one of bytes, url and path")
    if isinstance(content, str) and not _is_data_url(content) and content is value.get("bytes"):
        content = f"data:;base64,{content}"
    return _read_value(content, kind, place, root)


def find_content(value: dict[str, Any]) -> str | bytes | None:
    """Return the part of an object that gives its media: the first of its bytes, URL and path."""
    parts = (value.get(name) for name in ("bytes", "url", "path"))
    return next((one for one in parts if one and isinstance(one, str | bytes)), None)


def name_references(value: Any, kind: MediaKind, root: str) -> list[Reference]:
    """Return the media that ``read_references`` finds in a value, without reading embedded content. Omit invalid values."""
    if (values := list_media(value)) != [value]:
        return [reference for one in values for reference in name_references(one, kind, root)]
    if isinstance(value, dict):
        content = find_content(value)
        return [_stand_in(kind)] if content and content is value.get("bytes") else name_references(content, kind, root)
    if isinstance(value, bytes):
        return [_stand_in(kind)]
    if not isinstance(value, str) or not value or value.isspace():
        return []
    try:
        return [_stand_in(kind) if _is_data_url(value) or is_base64_image(value) else refer(value, kind, root)]
    except SampleError:
        return []


def _stand_in(kind: MediaKind) -> Reference:
    """Return a reference that stands for embedded media."""
    return Reference(Media(kind=kind, data=""), "")


def refer(text: str, kind: MediaKind, root: str) -> Reference:
    """Return the media at a URL or path. A URL stays unchanged. A relative path starts at ``root``. Raises ``SampleError``."""
    if "\0" in text or len(text) > _PATH_LIMIT:
        raise refuse_text(text)
    is_whole = text[0] == "/" or "://" in text[:_SCHEME_LIMIT]
    return Reference(Media(kind=kind, uri=text if is_whole else f"{root}/{text}"), f"{kind}:{text}")


def find_path(media: Media) -> str | None:
    """Return the path or the address in object storage of an image or video that is a whole file, or None.

    ``workers/media/reader.py`` reads the same file.
    """
    if media.uri is None or media.offset is not None:
        return None
    if media.uri[:_SCHEME_LIMIT].lower().startswith("file://"):
        try:
            parts = urlsplit(media.uri)
        except ValueError:  # the worker reports the invalid URL
            return None
        return unquote(parts.path) if parts.netloc in ("", "localhost") else None
    return None if "://" in media.uri[:_SCHEME_LIMIT] and not is_remote(media.uri) else media.uri


def find_size(path: str) -> int | None:
    """Return the size of a regular file in bytes, or None for other paths."""
    try:
        if is_remote(path):
            state = find_remote_state(path)
            return state.size_bytes if state else None
        found = os.stat(path)  # noqa: PTH116  Path costs more than the call
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def embed_bytes(content: bytes, kind: MediaKind) -> Reference:
    """Return the bytes of a file as inline media. ``embed`` gives the same result for their base64 text, but decodes the text."""
    payload = base64.b64encode(content)
    media = Media(kind=kind, data=payload.decode("ascii"), digest=digest_bytes(content))
    return Reference(media, f"{kind}#{digest_bytes(payload)}")


def embed(payload: bytes, kind: MediaKind, path: str, offset: int | None) -> Reference:
    """Return base64 text as media: inline if it is small or its offset is unknown, else as a byte range of the file.

    Its digest is the digest of the decoded bytes. For text that is not base64, it is the digest of the text, and the worker
    reports the error. Workers read line breaks, but no other spelling, so text in another spelling is rewritten and inline.
    """
    standard = standardize(payload)
    try:
        digest = digest_bytes(base64.b64decode(standard, validate=True))
        if standard != b"".join(payload.split()):
            payload, offset = standard, None
    except binascii.Error:
        digest = digest_bytes(payload)
    key = f"{kind}#{digest_bytes(payload)}"
    if len(payload) <= INLINE_LIMIT_BYTES or offset is None:
        return Reference(Media(kind=kind, data=payload.decode("ascii"), digest=digest), key)
    return Reference(Media(kind=kind, uri=path, offset=offset, length=len(payload), encoding="base64", digest=digest), key)


def _read_text(text: str, kind: MediaKind, place: Place, root: str) -> Reference:
    if _is_data_url(text):
        payload = _read_data_url(text.strip())
    elif is_base64_image(text):
        payload = text.strip().encode()
    else:
        return refer(text, kind, root)
    at = place.content.find(payload) if place.offset is not None and len(payload) > INLINE_LIMIT_BYTES else -1
    return embed(payload, kind, place.path, place.offset + at if place.offset is not None and at >= 0 else None)


def _is_data_url(text: str) -> bool:
    return text.lstrip()[:5].lower() == "data:"


def _read_data_url(url: str) -> bytes:
    """Return the base64 text of a data URL (RFC 2397). Other encodings are not supported."""
    comma = url.find(",", 0, 256)
    if comma < 0 or not url[:comma].lower().endswith(";base64"):
        raise SampleError("bad_media", f"found {url[:40]!r}; expected data:<type>;base64,<base64 text>")
    payload = url[comma + 1 :].encode("utf-8")
    check_characters(payload, "the base64 text of a data: URL")
    return payload
