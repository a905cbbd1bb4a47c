"""Bytes into an upright RGB image within the bounds that a model's profile sets.  Reading a header decodes nothing."""

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

PIXEL_BYTES = 4  # Pillow pads RGB

# How much larger than asked for a JPEG may come out of its decoder, which halves sizes for next to nothing, and out of the box
# filter that goes before the bicubic one.  At 2 a photo is scaled 3 to 5 times as fast, and differs from the same without a
# gap by no more than LANCZOS differs from BICUBIC (1 to 2 of 255 on average).
_REDUCING_GAP = 2.0

# From greys of 8, 10, 12, 14 and 16 bits to 8 bits, by the largest value of each depth.
_TO_8_BITS = {most: np.rint(np.arange(most + 1) * (255 / most)).astype(np.uint8) for most in (255, 1023, 4095, 16383, 65535)}

Image.init()
# An explicit list: Pillow's EPS plugin runs Ghostscript, others call programs or read whole archives.
_WANTED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")
FORMATS = tuple(name for name in _WANTED_FORMATS if name in Image.OPEN)
_DECODED_BY_ROWS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "PPM", "TGA")

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


@dataclass(frozen=True)
class OpenedImage:
    """An image whose header was read.  ``size`` is that of the file, ``target`` the one it will have, both before it is turned.

    ``peak_bytes`` bounds what decoding takes, the file and the result included.
    """

    name: str
    image: Image.Image
    size: tuple[int, int]
    target: tuple[int, int]
    peak_bytes: int

    def decode(self) -> tuple[Image.Image]:
        """Return the image in mode RGB, turned upright.  Raises ``SampleError``."""
        with _name_faults(self.name):
            self.image.load()
            _turn_upright(self.image)
            upright = to_rgb(self.image)
            upright.info.clear()  # only pixels are asked about; encoders would send comment and profile to an endpoint as well
            if self.target == self.size:
                return (upright,)
            is_turned = (upright.width > upright.height) != (self.size[0] > self.size[1])
            return (resize(upright, self.target[::-1] if is_turned else self.target),)


def open_image(content: bytes, name: str, bounds: MediaBounds) -> OpenedImage:
    """Read the header of the image that ``content`` holds; ``name`` is for messages.  Raises ``SampleError``."""
    with _name_faults(name):
        try:
            image = Image.open(BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:
            known = ", ".join(FORMATS)
            message = f"{name}: not an image in a known format; expected one of {known}{_recognise(content)}"
            raise SampleError("media_corrupt", message) from None
        size = image.size
        if size[0] * size[1] > MOST_PIXELS:
            raise _too_large(name, f"{size[0]} x {size[1]} pixels, at most {MOST_PIXELS} are allowed; scale it down")
        target = fit_size(size, bounds)
        if target < size:
            image.draft(None, (int(target[0] * _REDUCING_GAP), int(target[1] * _REDUCING_GAP)))  # of JPEG; others ignore it
        return OpenedImage(name, image, size, target, _bound_peak(image, size, target, len(content)))


def fit_size(size: tuple[int, int], bounds: MediaBounds) -> tuple[int, int]:
    """Return the size within the bounds that keeps the aspect ratio, as nearly as whole pixels can."""
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
    """Return the image scaled with the filter that most models' own processors use, so that it looks as they would have it."""
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a copy in mode RGB.  Transparency becomes white; greyscale of more than 8 bits is scaled to 8, not clipped."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _bound_peak(image: Image.Image, size: tuple[int, int], target: tuple[int, int], file_bytes: int) -> int:
    """Return the most bytes that decoding takes: the file, the decoder, the picture and its copies, the result."""
    copies = 5 if image.has_transparency_data or image.mode[0] in "IF" else 2
    decoder_bytes = 0 if image.format in _DECODED_BY_ROWS else 12
    if image.info.get("progressive"):  # a JPEG whose coefficients are all kept until the last scan
        decoder_bytes = 6
    decoded_bytes = copies * PIXEL_BYTES * image.width * image.height
    scaled_bytes = PIXEL_BYTES * target[0] * (image.height + target[1]) if target != size else 0  # first its rows, then columns
    return file_bytes + decoder_bytes * size[0] * size[1] + decoded_bytes + scaled_bytes


@contextmanager
def _name_faults(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises into a ``SampleError``."""
    try:
        yield
    except SampleError:
        raise
    except MemoryError as error:
        raise _too_large(name, "it does not fit into memory; scale it down") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(name, f"more than {MOST_PIXELS} pixels, the most that are allowed; scale it down") from error
    except Exception as error:
        # Pillow's decoders raise whatever their parsing stumbles over: OSError, SyntaxError, struct.error, KeyError, ...
        raise SampleError(
            "media_corrupt", f"{name}: cannot be decoded, replace the file: {type(error).__name__}: {error}"
        ) from error


def _recognise(content: bytes) -> str:
    """Return what a file is that is often taken for an image, and what to do about it."""
    begin = content[:256].lstrip().lower()
    return next((f"; it is {what}" for start, what in _NO_IMAGES.items() if begin.startswith(start)), "")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Map greys onto 0..255: integers from the smallest usual depth that holds the largest, others from their own range.

    No file says which depth it holds: a scanner's 12 bits come in 16, a mask's 8 in 32, and would be black taken for all of those.
    Floats, and integers below 0 or above 65535, have no usual depth, and go from their own minimum to their own maximum.
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
    """Turn and mirror the image as its EXIF block says; a broken block is no reason to refuse the image."""
    with suppress(Exception):  # EXIF is parsed by the same decoders that raise anything
        ImageOps.exif_transpose(image, in_place=True)


def _too_large(name: str, found: str) -> SampleError:
    return SampleError("media_too_large", f"{name}: {found}")
