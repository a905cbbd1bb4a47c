"""Media into images.  Synchronous: the worker calls it in a bounded pool of threads."""

import base64
import binascii
import re
import warnings
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import SampleError
from common.records import Media
from workers.media_files import MediaAccess, read_file
from workers.media_urls import fetch_url, name_url

MAX_PIXELS = 64_000_000
MAX_BYTES = 128 * 2**20

_MOST_16_BITS = 65535
_FROM_16_BITS = np.rint(np.arange(_MOST_16_BITS + 1) / 257).astype(np.uint8)  # 65535 / 255 = 257

Image.init()
# An explicit list: Pillow's EPS plugin runs Ghostscript, others call programs or read whole archives.
_WANTED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")
FORMATS = tuple(name for name in _WANTED_FORMATS if name in Image.OPEN)

# Once, for the whole process: the filters of ``warnings.catch_warnings`` are not safe between threads.  Damaged metadata
# (EXIF, resolution) make Pillow warn and cost nothing; too many pixels must not pass.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.simplefilter("error", Image.DecompressionBombWarning)

_NO_IMAGES = {
    b"<!doctype html": "a web page: download the image again",
    b"<html": "a web page: download the image again",
    b"<svg": "an SVG drawing: save it as PNG",
    b"<?xml": "XML, perhaps an SVG drawing: save it as PNG",
    b"%pdf": "a PDF: save its page as PNG",
    b"%!ps": "PostScript: save it as PNG",
}

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


def load_media(media: Media, access: MediaAccess) -> Image.Image:
    """Return a media's image in mode RGB: upright, on white where it was transparent, the first frame if it moves.

    Raises ``SampleError`` with one of the codes ``media_missing`` (nothing there), ``media_unreadable`` (no permission,
    a folder, a server that does not answer), ``media_forbidden`` (outside the folders, or an address that ``access`` does
    not allow), ``media_corrupt`` (cut off, not an image), ``media_too_large`` (over ``MAX_BYTES`` or ``MAX_PIXELS``) and
    ``media_unsupported`` (videos, and URLs where they are off).
    """
    if media.kind != "image":
        raise SampleError("media_unsupported", f"{_name(media)}: {media.kind}s are not enabled; only images are read")
    content = read_media(media, access)
    if not content:
        raise SampleError("media_corrupt", f"{_name(media)}: it is empty (0 bytes); expected an image")
    return decode_image(content, _name(media))


def read_media(media: Media, access: MediaAccess) -> bytes:
    """Return a media's bytes, from wherever they are, at most ``MAX_BYTES``.  Raises ``SampleError``, see ``load_media``."""
    if media.data is not None:
        return _decode_base64(media.data, _name(media))
    if media.uri is None:
        raise SampleError("media_missing", "the media has neither data nor uri; give one of them in the dataset")
    content = _read_uri(media.uri, media, access)
    if media.encoding == "base64":
        return _decode_base64(content, _name(media))
    return content


def decode_image(content: bytes, name: str) -> Image.Image:
    """Return the image that ``content`` holds, in mode RGB; ``name`` is for messages.  Raises ``SampleError``."""
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:  # before load: nothing is decompressed yet
            raise _too_large(name, f"{image.width} x {image.height} pixels, at most {MAX_PIXELS} are allowed; scale it down")
        image.load()
        return to_rgb(_turn_upright(image))
    except SampleError:
        raise
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        message = f"{name}: not an image in a known format; expected one of {known}{_recognise(content)}"
        raise SampleError("media_corrupt", message) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError, MemoryError) as error:
        raise _too_large(name, f"more than {MAX_PIXELS} pixels, the most that are allowed; scale it down") from error
    except Exception as error:
        # Pillow's decoders raise whatever their parsing stumbles over: OSError, SyntaxError, struct.error, KeyError, ...
        raise SampleError(
            "media_corrupt", f"{name}: cannot be decoded, replace the file: {type(error).__name__}: {error}"
        ) from error


def _recognise(content: bytes) -> str:
    """Return what a file is that is often taken for an image, and what to do about it."""
    begin = content[:256].lstrip().lower()
    return next((f"; it is {what}" for start, what in _NO_IMAGES.items() if begin.startswith(start)), "")


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a copy in mode RGB.  Transparency becomes white; greyscale of more than 8 bits is scaled, not clipped."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Map 0..65535 onto 0..255; floats, and integers outside of that, from their own minimum and maximum."""
    values = np.asarray(image)
    if image.mode != "F" and values.min() >= 0 and values.max() <= _MOST_16_BITS:
        return Image.fromarray(_FROM_16_BITS[values])
    values = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    return Image.fromarray(np.rint((values - low) * (255.0 / max(high - low, 1e-30))).astype(np.uint8))


def _turn_upright(image: Image.Image) -> Image.Image:
    """Turn and mirror the image as its EXIF block says; a broken block is no reason to refuse the image."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  EXIF is parsed by the same decoders that raise anything
        return image


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
