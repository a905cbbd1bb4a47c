"""Read the size of an image from its header, to show it before a run is planned. Images are not decoded."""

import base64
import binascii
import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import BinaryIO

from common.errors import FleetError
from common.records import Media, Record
from common.storage.addresses import is_below, is_remote
from common.storage.files import open_file
from producer.datasets.media import find_path, find_size

_HEAD_BYTES = 2**20  # of an embedded image; a colour profile or thumbnail before the size takes fewer bytes
# An explicit list, because Pillow's EPS plugin runs Ghostscript, and other plugins call programs or read whole archives.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")


class MediaHeader(Record):
    """One image or video of a row: its kind, its place, and the size of an image in pixels.

    ``problem`` states why the size is unknown.
    """

    kind: str
    place: str
    width: int | None = None
    height: int | None = None
    problem: str | None = None


def read_header(media: Media, roots: Sequence[str] = ()) -> MediaHeader:
    """Return the place of an image or video. Also return the size of an image that is a file, a byte range or inline.

    An object is read only if it is in one of the folders ``roots``.
    """
    header = MediaHeader(kind=media.kind, place=_describe_place(media))
    if media.kind == "video":
        return header
    try:
        found = _measure(media, roots)
    except (_NotShown, FleetError) as reason:  # FleetError: the object storage is not reachable or refuses the request
        return header.model_copy(update={"problem": str(reason)})
    return header.model_copy(update={"width": found[0], "height": found[1]})


class _NotShown(Exception):
    """The size of an image cannot be read."""


def _describe_place(media: Media) -> str:
    if media.data is not None:
        return f"inline, {len(media.data):,} characters of base64"
    return str(media.uri) if media.offset is None else f"{media.uri}, {media.length or 0:,} bytes at {media.offset:,}"


def _measure(media: Media, roots: Sequence[str]) -> tuple[int, int]:
    if media.data is not None:
        return _measure_stream(BytesIO(_decode(media.data.encode()[: _HEAD_BYTES * 4 // 3])))
    path = media.uri if media.offset is not None else find_path(media)
    if path is None or (is_remote(path) and not any(is_below(path, root) for root in roots)):
        raise _NotShown("a URL, which is not fetched")
    size = find_size(path)
    if size is None:
        raise _NotShown("no file at this path")
    if not size:
        raise _NotShown("an empty file")
    try:
        with open_file(path) as stream:
            return _measure_stream(stream if media.offset is None else _read_range(stream, media))
    except OSError as error:
        raise _NotShown(error.strerror or str(error)) from None


def _read_range(stream: BinaryIO, media: Media) -> BytesIO:
    stream.seek(media.offset or 0)
    content = stream.read(min(media.length or 0, _HEAD_BYTES))
    return BytesIO(_decode(content) if media.encoding == "base64" else content)


def _decode(text: bytes) -> bytes:
    whole = b"".join(text.split())
    try:
        return base64.b64decode(whole[: len(whole) // 4 * 4], validate=True)
    except binascii.Error:
        raise _NotShown("not base64") from None


def _measure_stream(stream: BinaryIO) -> tuple[int, int]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns about damaged metadata and about many pixels, which are not decoded here.
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=_FORMATS) as image:
                return image.size
    except Image.DecompressionBombError:
        raise _NotShown("too many pixels") from None
    except UnidentifiedImageError:
        raise _NotShown("not an image") from None
    except Exception as error:  # noqa: BLE001  a damaged header makes Pillow raise errors of many types
        raise _NotShown(f"a damaged image ({type(error).__name__})") from None
