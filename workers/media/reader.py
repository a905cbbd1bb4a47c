"""Media into images.  Synchronous: the worker calls it in a bounded pool of threads, in two steps.

The first reads a file and its header and says what decoding takes; the second decodes, once there is memory for it.
"""

import base64
import binascii
import re
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from PIL import Image

from common.errors import SampleError
from common.records import Media
from common.spec.models import MediaBounds
from workers.media.files import MediaAccess, read_file
from workers.media.images import open_image
from workers.media.urls import fetch_url, name_url

MAX_BYTES = 128 * 2**20

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


class Opened(Protocol):
    """A media whose header was read and whose pixels were not."""

    @property
    def peak_bytes(self) -> int:
        """The most bytes of memory that decoding takes, its file and its images included."""

    def decode(self) -> tuple[Image.Image, ...]:
        """Return its images in mode RGB: one, or a video's frames.  Raises ``SampleError``."""


def open_media(media: Media, access: MediaAccess, bounds: MediaBounds) -> Opened:
    """Read a media and its header.

    An image will come upright, on white where it was transparent, the first frame if it moves; a video as frames that lie
    evenly over its length; both within ``bounds``.

    Raises ``SampleError``, as ``decode`` does, with one of the codes ``media_missing`` (nothing there),
    ``media_unreadable`` (no permission, a folder, a server that does not answer), ``media_forbidden`` (outside the folders,
    or an address that ``access`` does not allow), ``media_corrupt`` (cut off, or not what it should be), ``media_too_large``
    (over ``MAX_BYTES`` or ``MOST_PIXELS``) and ``media_unsupported`` (URLs where they are off, videos without PyAV).  Raises
    ``TransientError`` when that is the fault of this machine or of a file system that is away.
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
        message = f"{name}: videos need PyAV ({error}); pip install 'vlm-fleet[video]' on the workers"
        raise SampleError("media_unsupported", message) from None
    return open_video(content, name, bounds)


_EXPECTED = {"image": "an image", "video": "a video"}


def read_media(media: Media, access: MediaAccess) -> bytes:
    """Return a media's bytes, from wherever they are, at most ``MAX_BYTES``.  Raises what ``open_media`` raises."""
    if media.data is not None:
        return _decode_base64(media.data, _name(media))
    if media.uri is None:
        raise SampleError("media_missing", "the media has neither data nor uri; give one of them in the dataset")
    content = _read_uri(media.uri, media, access)
    if media.encoding == "base64":
        return _decode_base64(content, _name(media))
    return content


def _decode_base64(text: str | bytes, name: str) -> bytes:
    if len(text) // 4 * 3 > MAX_BYTES:
        raise _too_large(name, f"{len(text) // 4 * 3} bytes, at most {MAX_BYTES} are allowed")
    try:
        # Line breaks are allowed, as in MIME; any other strange character means that this is not base64.
        packed = text.encode("ascii") if isinstance(text, str) else text
        return base64.b64decode(b"".join(packed.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SampleError("media_corrupt", f"{name}: not valid base64: {error}") from None


def _read_uri(uri: str, media: Media, access: MediaAccess) -> bytes:
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
        raise SampleError("media_unsupported", f"{_name(media)}: a byte range of an address is not read; expected one of a file")
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
    name = name_url(media.uri) if _SCHEME.match(media.uri) else media.uri
    if media.offset is None:
        return name
    return f"{name}[{media.offset}:+{media.length if media.length is not None else '?'}]"
