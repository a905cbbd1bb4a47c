"""Test images. A plain image is 8 x 6 red pixels, which the test engine describes in a short answer."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

RED, BLUE, NOTHING = (255, 0, 0), (0, 0, 255), (0, 0, 0, 0)
SIZE = (8, 6)
_EXIF_ORIENTATION, _EXIF_COMMENT = 274, 37510
_TURN_RIGHT = 6  # EXIF orientation: row 0 of the file is the right side of the picture


def encode(image: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format_name, **options)
    return sink.getvalue()


def plain(format_name: str = "PNG", mode: str = "RGB", size: tuple[int, int] = SIZE) -> Callable[[], bytes]:
    """Return a function that makes a red image."""
    return lambda: encode(Image.new("RGB", size, RED).convert(mode), format_name)


def noisy(format_name: str, **options: object) -> bytes:
    """Return an image of noise. Noise does not compress, so the first half of the file has half of the pixels."""
    return encode(Image.effect_noise((64, 48), 80).convert("RGB"), format_name, **options)


def cut(format_name: str, **options: object) -> Callable[[], bytes]:
    """Return a function that makes the first half of an image file."""
    return lambda: (content := noisy(format_name, **options))[: len(content) // 2]


def overwrite(format_name: str) -> Callable[[], bytes]:
    """Return a function that makes an image file with 64 zero bytes in its middle."""
    return lambda: (content := noisy(format_name))[: len(content) // 2] + bytes(64) + content[len(content) // 2 + 64 :]


def animate(format_name: str, count: int = 3) -> Callable[[], bytes]:
    """Return a function that makes an animation: a red frame, then blue frames."""
    blue = [Image.new("RGB", SIZE, BLUE)] * (count - 1)
    return lambda: encode(Image.new("RGB", SIZE, RED), format_name, save_all=True, append_images=blue)


def make_16_bit() -> bytes:
    return encode(Image.fromarray(np.full(SIZE[::-1], 25_700, dtype=np.uint16)))


def make_12_bit() -> bytes:
    """Return a 12-bit greyscale image, as of a radiograph. Values rise from 2048 (50 % grey) to 4095 (white)."""
    return encode(Image.fromarray(np.linspace(2048, 4095, SIZE[0] * SIZE[1]).astype(np.uint16).reshape(SIZE[::-1])))


def make_float() -> bytes:
    return encode(Image.fromarray(np.full(SIZE[::-1], np.nan, dtype=np.float32)), "TIFF")


def make_transparent() -> bytes:
    return encode(Image.new("RGBA", SIZE, NOTHING))


def make_turned() -> bytes:
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = _TURN_RIGHT
    return encode(Image.new("RGB", SIZE, RED), "PNG", exif=exif)


def make_huge_exif() -> bytes:
    exif = Image.Exif()
    exif[_EXIF_COMMENT] = b"x" * 60_000
    return encode(Image.new("RGB", SIZE, RED), "PNG", exif=exif)


def make_broken_exif() -> bytes:
    block = b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40
    content = plain("JPEG")()
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + content[2:]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def craft_png(width: int, height: int, *, pixels: bytes = b"", extra: bytes = b"", interlaced: bool = False) -> bytes:
    """Return a PNG of one bit a pixel with any size in its header; ``pixels`` are the raw lines, with their filter bytes."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, int(interlaced)))
    packed = zlib.compress(
        pixels, 0 if interlaced else 9
    )  # callers truncate interlaced files: without compression, an offset determines the pass
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def make_text_bomb() -> bytes:
    """Return an image of 8 x 8 pixels whose comment decompresses to 80 MB."""
    return craft_png(8, 8, pixels=bytes(16), extra=_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 * 2**20), 9)))


def make_pixel_bomb() -> bytes:
    """Return an image of 8 x 8 pixels whose compressed data holds 50 MB of pixels."""
    return craft_png(8, 8, pixels=bytes(50 * 2**20))


def make_interlaced_cut() -> bytes:
    """Return an interlaced PNG that is truncated in the last of its seven passes."""
    return craft_png(64, 64, pixels=bytes(632), interlaced=True)[:400]


def make_gif_without_frames() -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", *SIZE, 0, 0, 0) + b";"


def make_lying_bmp(width: int, height: int) -> Callable[[], bytes]:
    """Return a function that makes a small BMP with another size in its header."""
    return lambda: (content := plain("BMP")())[:18] + struct.pack("<ii", width, height) + content[26:]


def make_with_trailing_garbage() -> bytes:
    return plain("JPEG")() + b"<?php garbage ?>" * 100


huge_square = partial(craft_png, 30_000, 30_000)
