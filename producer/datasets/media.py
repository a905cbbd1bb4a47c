"""The media of a row: inline base64, a path or URL, or a byte range of the dataset file, each with its content key.

The key is part of ``sample_id`` and ``group``. For embedded media it is a digest of the base64 text, independent of where the
text is, so equal images have equal keys. For a path or URL it is the reference as written in the row, so a dataset that is
moved to another folder or machine keeps its ids.
"""

from typing import Any, Literal, NamedTuple

from common.digests import digest_bytes
from common.errors import SampleError
from common.records import Media
from producer.datasets.fields import misfit

MediaKind = Literal["image", "video"]

INLINE_LIMIT_BYTES = 8 * 1024
_PATH_LIMIT = 4096
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_SCHEME_LIMIT = 16


class Reference(NamedTuple):
    """One media of a sample, and its content key."""

    media: Media
    key: str


class Place(NamedTuple):
    """The bytes of a row, their file, and their offset (``None`` if the file holds them in another form)."""

    path: str
    content: bytes
    offset: int | None


def read_references(value: Any, kind: MediaKind, place: Place, root: str) -> list[Reference]:
    """Return the media in a text or a list of texts. Blank texts are left out. Raises ``SampleError``."""
    references = []
    for text in value if isinstance(value, list) else (value,):
        if not isinstance(text, str):
            raise misfit(text, "a data: URL, a URL or a path, or a list of these")
        if text and not text.isspace():
            references.append(_read_text(text, kind, place, root))
    return references


def refer(text: str, kind: MediaKind, root: str) -> Reference:
    """Return the media at a URL or path. A URL is kept as it is; relative paths start at ``root``. Raises ``SampleError``."""
    if "\0" in text or len(text) > _PATH_LIMIT:
        found = f"{text[:24]!r}… ({len(text)} characters)"
        raise SampleError("bad_media", f"found {found}; expected a path, a URL, or base64 behind data:image/png;base64,")
    is_whole = text[0] == "/" or "://" in text[:_SCHEME_LIMIT]
    return Reference(Media(kind=kind, uri=text if is_whole else f"{root}/{text}"), f"{kind}:{text}")


def embed(payload: bytes, kind: MediaKind, path: str, offset: int | None) -> Reference:
    """Return base64 text as media: inline if it is small or its offset in the file is unknown, else as a byte range."""
    key = f"{kind}#{digest_bytes(payload)}"
    if len(payload) <= INLINE_LIMIT_BYTES or offset is None:
        return Reference(Media(kind=kind, data=payload.decode("ascii")), key)
    return Reference(Media(kind=kind, uri=path, offset=offset, length=len(payload), encoding="base64"), key)


def _read_text(text: str, kind: MediaKind, place: Place, root: str) -> Reference:
    if text[:5].lower() != "data:":
        return refer(text, kind, root)
    payload = _read_data_url(text)
    at = place.content.find(payload) if place.offset is not None and len(payload) > INLINE_LIMIT_BYTES else -1
    return embed(payload, kind, place.path, place.offset + at if place.offset is not None and at >= 0 else None)


def _read_data_url(url: str) -> bytes:
    """Return the base64 text of a data URL (RFC 2397). Other encodings are not supported."""
    comma = url.find(",", 0, 256)
    if comma < 0 or not url[:comma].lower().endswith(";base64"):
        raise SampleError("bad_media", f"found {url[:40]!r}; expected data:<type>;base64,<base64 text>")
    payload = url[comma + 1 :].encode("utf-8")
    strange = payload.translate(None, _BASE64)
    if not payload or strange:
        found = repr(strange[:8].decode("utf-8", "replace")) if strange else "nothing"
        raise SampleError("bad_media", f"found {found} in the base64 text of a data: URL; expected only base64 characters")
    return payload
