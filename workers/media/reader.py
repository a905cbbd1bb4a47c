"""Turn media into images. The functions are synchronous: the worker calls them in a bounded thread pool, in two steps.

The first step reads a file and its header and returns how much memory decoding takes. The second step decodes, once that
memory is available.
"""

import base64
import binascii
import re
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from PIL import Image

from common.digests import digest_bytes
from common.errors import SampleError
from common.records import Media
from common.spec.models import MediaBounds
from common.storage.addresses import is_remote
from workers.media.files import MediaAccess, read_file
from workers.media.images import open_image
from workers.media.objects import read_object
from workers.media.urls import fetch_url, name_url

MAX_BYTES = 128 * 2**20

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


class OpenedMedia(Protocol):
    """An image or a video whose header was read and whose pixels were not decoded."""

    @property
    def peak_bytes(self) -> int:
        """The peak memory in bytes that decoding takes, including the file and the images."""

    def decode(self) -> tuple[Image.Image, ...]:
        """Return the images in mode RGB: one image, or the ``Frames`` of a video. Raises ``SampleError``."""


def open_media(media: Media, access: MediaAccess, bounds: MediaBounds) -> OpenedMedia:
    """Read an image or a video and its header.

    ``decode`` returns an image upright, with transparency replaced by white, and only the first frame of an animation. It
    returns a video as frames at equal distances over its length. Both are within ``bounds``.

    Raises ``SampleError``, as ``decode`` does, with one of these codes:

    - ``media_missing``: the file or address does not exist.
    - ``media_unreadable``: no permission, a folder, or a server that does not answer.
    - ``media_forbidden``: outside the allowed folders, or an address that ``access`` does not allow.
    - ``media_changed``: the content of the file has changed since the run was planned.
    - ``media_corrupt``: cut off, or not of the expected kind.
    - ``media_too_large``: more than ``MAX_BYTES`` or ``MOST_PIXELS``.
    - ``media_unsupported``: a URL while URLs are disabled, or a video without PyAV.

    Raises ``TransientError`` if this machine or an unavailable file system is at fault.
    """
    content = read_media(media, access)
    name = _name(media)
    if not content:
        raise SampleError("media_corrupt", f"{name}: it is empty (0 bytes); expected {_EXPECTED[media.kind]}")
    if media.kind == "image":
        return open_image(content, name, bounds)
    try:
        from workers.media.video import open_video
    except ImportError as error:
        message = f"{name}: videos require PyAV ({error}); run pip install 'vlm-fleet[video]' on the workers"
        raise SampleError("media_unsupported", message) from None
    return open_video(content, name, bounds)


_EXPECTED = {"image": "an image", "video": "a video"}


def read_media(media: Media, access: MediaAccess) -> bytes:
    """Return the bytes of ``media``, at most ``MAX_BYTES``, from inline data, a file or an address.

    Raises the errors of ``open_media``.
    """
    if media.data is not None:
        return _decode_base64(media.data, _name(media))
    if media.uri is None:
        raise SampleError("media_missing", "the media has neither data nor uri; give one of them in the dataset")
    content = _read_uri(media.uri, media, access)
    if media.encoding == "raw":
        _check_digest(media, content)
        return content
    try:
        decoded = _decode_base64(content, _name(media))
    except SampleError:
        _check_digest(media, content)  # if the content has changed, report the change: it is the cause of the invalid base64 text
        raise
    if media.digest and digest_bytes(decoded) != media.digest:  # plans of earlier versions: the digest of the base64 text
        _check_digest(media, content)
    return decoded


def _check_digest(media: Media, content: bytes) -> None:
    if media.digest and digest_bytes(content) != media.digest:
        message = f"{_name(media)}: its content has changed since the run was planned; put the file back, or enqueue again"
        raise SampleError("media_changed", message)


def _decode_base64(text: str | bytes, name: str) -> bytes:
    if len(text) // 4 * 3 > MAX_BYTES:
        raise _too_large(
            name, f"it has {len(text) // 4 * 3} bytes, but at most {MAX_BYTES} are allowed; scale the image or video down"
        )
    try:
        # Line breaks are allowed, as in MIME. Any other character outside of the alphabet means that this is not base64.
        encoded = text.encode("ascii") if isinstance(text, str) else text
        return base64.b64decode(b"".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SampleError("media_corrupt", f"{name}: not valid base64: {error}") from None


def _read_uri(uri: str, media: Media, access: MediaAccess) -> bytes:
    if is_remote(uri):
        return read_object(uri, media.offset or 0, media.length, _name(media), roots=access.roots, max_bytes=MAX_BYTES)
    scheme = _SCHEME.match(uri)
    if scheme is None or scheme[1].lower() == "file":
        path = Path(uri) if scheme is None else _to_path(uri)
        return read_file(path, media.offset or 0, media.length, _name(media), roots=access.roots, max_bytes=MAX_BYTES)
    if not access.urls:
        message = (
            f"{_name(media)}: addresses are not enabled; set FLEET_MEDIA_URLS=1 on the workers, or download it and give its path"
        )
        raise SampleError("media_unsupported", message)
    if media.offset is not None or media.length is not None:
        raise SampleError(
            "media_unsupported", f"{_name(media)}: a byte range of an address is not supported; expected a range of a file"
        )
    return fetch_url(uri, timeout_s=access.url_timeout_s, max_bytes=MAX_BYTES)


def _to_path(uri: str) -> Path:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise SampleError("media_unsupported", f"{name_url(uri)}: not a valid address ({error}); expected file:///path") from None
    if parts.netloc not in ("", "localhost"):
        raise SampleError("media_unsupported", f"{name_url(uri)}: names another host; expected file:///path")
    return Path(unquote(parts.path))


def _too_large(name: str, found: str) -> SampleError:
    return SampleError("media_too_large", f"{name}: {found}")


def _name(media: Media) -> str:
    if media.uri is None:
        return f"inline {media.kind}"
    name = name_url(media.uri) if _SCHEME.match(media.uri) and not is_remote(media.uri) else media.uri
    if media.offset is None:
        return name
    return f"{name}[{media.offset}:+{media.length if media.length is not None else '?'}]"
