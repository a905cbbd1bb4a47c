"""Decode bytes into an upright RGB image within the bounds of the model profile. Opening an image reads only its header."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import SampleError
from common.spec.models import MOST_PIXELS, MediaBounds

PIXEL_BYTES = 4  # Pillow pads RGB to four bytes

# The factor by which an intermediate image may exceed the target size. It applies to the JPEG decoder, which can halve the
# size at nearly no cost, and to the box filter before the bicubic filter. With 2, a photo is scaled 3 to 5 times as fast.
# The result then differs from an image scaled without a gap by no more than LANCZOS differs from BICUBIC (1 to 2 of 255 on
# average).
_REDUCING_GAP = 2.0

# Tables that map grey values of 8, 10, 12, 14 and 16 bits to 8 bits, by the largest value of each depth.
_TO_8_BITS = {most: np.rint(np.arange(most + 1) * (255 / most)).astype(np.uint8) for most in (255, 1023, 4095, 16383, 65535)}

Image.init()
# An explicit list, because Pillow's EPS plugin runs Ghostscript, and other plugins call programs or read whole archives.
_ALLOWED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")
FORMATS = tuple(name for name in _ALLOWED_FORMATS if name in Image.OPEN)
_DECODED_BY_ROWS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "PPM", "TGA")

# Set once for the whole process, because ``warnings.catch_warnings`` is not thread-safe. Pillow warns about damaged metadata
# (EXIF, resolution), which is harmless. A warning about too many pixels must become an error.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.simplefilter("error", Image.DecompressionBombWarning)

_KNOWN_NON_IMAGES = {
    b"<!doctype html": "a web page: download the image again",
    b"<html": "a web page: download the image again",
    b"<svg": "an SVG drawing: save it as PNG",
    b"<?xml": "XML, perhaps an SVG drawing: save it as PNG",
    b"%pdf": "a PDF: save its page as PNG",
    b"%!ps": "PostScript: save it as PNG",
}


@dataclass(frozen=True)
class OpenedImage:
    """An image whose header was read.

    ``size`` is the size of the file and ``target`` the size after scaling, both as (width, height) in pixels before the image
    is turned upright. ``peak_bytes`` is an upper bound of the memory that decoding takes, including the file and the result.
    """

    name: str
    image: Image.Image
    size: tuple[int, int]
    target: tuple[int, int]
    peak_bytes: int

    def decode(self) -> tuple[Image.Image]:
        """Return the image in mode RGB, turned upright. Raises ``SampleError``."""
        with _name_faults(self.name):
            self.image.load()
            _turn_upright(self.image)
            upright = to_rgb(self.image)
            upright.info.clear()  # the request needs only pixels; encoders would also send comment and profile to an endpoint
            if self.target == self.size:
                return (upright,)
            is_rotated = (upright.width > upright.height) != (self.size[0] > self.size[1])
            return (resize(upright, self.target[::-1] if is_rotated else self.target),)


def open_image(content: bytes, name: str, bounds: MediaBounds) -> OpenedImage:
    """Read the header of the image in ``content``. ``name`` names the image in error messages.

    Raises ``SampleError`` with ``media_corrupt`` or ``media_too_large``.
    """
    with _name_faults(name):
        try:
            image = Image.open(BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:
            known = ", ".join(FORMATS)
            message = f"{name}: not an image in a known format; expected one of {known}{_describe_non_image(content)}"
            raise SampleError("media_corrupt", message) from None
        size = image.size
        if size[0] * size[1] > MOST_PIXELS:
            raise _too_large(
                name, f"it has {size[0]} x {size[1]} pixels, but at most {MOST_PIXELS} are allowed; scale the image down"
            )
        target = fit_size(size, bounds)
        if target < size:
            image.draft(None, (int(target[0] * _REDUCING_GAP), int(target[1] * _REDUCING_GAP)))  # affects JPEG only
        return OpenedImage(name, image, size, target, _bound_peak(image, size, target, len(content)))


def fit_size(size: tuple[int, int], bounds: MediaBounds) -> tuple[int, int]:
    """Return the (width, height) within the bounds that keeps the aspect ratio, as closely as whole pixels allow."""
    width, height = size
    pixels = width * height
    if bounds.max_pixels and pixels > bounds.max_pixels:
        scale = math.sqrt(bounds.max_pixels / pixels)
        width = min(max(1, int(width * scale)), bounds.max_pixels)
        return width, min(max(1, int(height * scale)), bounds.max_pixels // width)
    if bounds.min_pixels and pixels < bounds.min_pixels:
        scale = math.sqrt(bounds.min_pixels / pixels)
        enlarged = math.ceil(width * scale), math.ceil(height * scale)
        return fit_size(enlarged, MediaBounds(max_pixels=bounds.max_pixels))
    return size


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image scaled to ``size`` with the bicubic filter.

    The processors of most models use the same filter.
    """
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a copy in mode RGB.

    Transparency becomes white. Greyscale of more than 8 bits is scaled to 8 bits and not clipped.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _bound_peak(image: Image.Image, size: tuple[int, int], target: tuple[int, int], file_bytes: int) -> int:
    """Return an upper bound of the bytes that decoding takes: the file, the decoder, the image, its copies and the result."""
    copies = 5 if image.has_transparency_data or image.mode[0] in "IF" else 2
    decoder_bytes = 0 if image.format in _DECODED_BY_ROWS else 12
    if image.info.get("progressive"):  # the decoder of a progressive JPEG keeps all coefficients until the last scan
        decoder_bytes = 6
    decoded_bytes = copies * PIXEL_BYTES * image.width * image.height
    scaled_bytes = PIXEL_BYTES * target[0] * (image.height + target[1]) if target != size else 0  # rows are scaled first
    return file_bytes + decoder_bytes * size[0] * size[1] + decoded_bytes + scaled_bytes


@contextmanager
def _name_faults(name: str) -> Iterator[None]:
    """Convert every exception of Pillow into a ``SampleError`` that names the image."""
    try:
        yield
    except SampleError:
        raise
    except MemoryError as error:
        raise _too_large(name, "it does not fit into memory; scale the image down") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(name, f"it has more than {MOST_PIXELS} pixels, which is the limit; scale the image down") from error
    except Exception as error:
        # Pillow's decoders do not wrap parsing errors: OSError, SyntaxError, struct.error, KeyError and others occur.
        message = f"{name}: cannot be decoded: {type(error).__name__}: {error}; replace the image"
        raise SampleError("media_corrupt", message) from error


def _describe_non_image(content: bytes) -> str:
    """Return the kind of a file that is often mistaken for an image, with advice, or an empty string."""
    beginning = content[:256].lstrip().lower()
    return next((f"; it is {what}" for start, what in _KNOWN_NON_IMAGES.items() if beginning.startswith(start)), "")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Map grey values to 0..255.

    Integers are scaled from the smallest common bit depth that holds the largest value. A file does not record its real
    depth: a scanner stores 12 bits in 16, and a mask stores 8 bits in 32. Scaled from the full depth, both would be black.
    Floats, and integers below 0 or above 65535, are scaled from their minimum and maximum.
    """
    values = np.asarray(image)
    if image.mode != "F" and values.min() >= 0:
        largest = values.max()
        table = next((table for most, table in _TO_8_BITS.items() if largest <= most), None)
        if table is not None:
            return Image.fromarray(table[values])
    values = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    return Image.fromarray(np.rint((values - low) * (255.0 / max(high - low, 1e-30))).astype(np.uint8))


def _turn_upright(image: Image.Image) -> None:
    """Rotate and mirror the image as its EXIF data require. Damaged EXIF data are ignored, because the image is still usable."""
    with suppress(Exception):  # the EXIF parser raises the same variety of exceptions as the decoders
        ImageOps.exif_transpose(image, in_place=True)


def _too_large(name: str, found: str) -> SampleError:
    return SampleError("media_too_large", f"{name}: {found}")
