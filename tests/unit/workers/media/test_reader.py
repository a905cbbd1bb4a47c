"""Reading media as images: all sources, all modes and all kinds of invalid files."""

import base64
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.errors import SampleError
from common.records import Media
from tests.support.media.media import AS_IS, load_image
from workers.media import reader as media_module
from workers.media.files import MediaAccess
from workers.media.images import open_image, to_rgb

RED = (255, 0, 0)
ANY_FILE = MediaAccess(("/",), urls=False, url_timeout_s=1)  # test_roots.py tests folders, test_urls.py tests URLs


def encode(image: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_name, **options)
    return stream.getvalue()


def make_red(size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new("RGB", size, RED)


def fault_of(media: Media) -> tuple[str, str]:
    with pytest.raises(SampleError) as caught:
        load_image(media, ANY_FILE)
    return caught.value.code, str(caught.value)


def inline(content: bytes) -> Media:
    return Media(data=base64.b64encode(content).decode())


def decode_result(content: bytes) -> str:
    try:
        return open_image(content, "damaged", AS_IS).decode()[0].mode
    except SampleError as error:
        return error.code


# Sources of media.


@pytest.mark.parametrize("to_uri", [str, lambda path: path.as_uri(), lambda path: f"file://localhost{path.as_uri()[7:]}"])
def test_path_and_file_uri_are_read(tmp_path: Path, to_uri: Callable[[Path], str]) -> None:
    path = tmp_path / "a red image é.png"
    path.write_bytes(encode(make_red()))
    image = load_image(Media(uri=to_uri(path)), ANY_FILE)
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (6, 4), RED)


def test_inline_base64_may_contain_line_breaks() -> None:
    text = base64.encodebytes(encode(make_red((40, 40)))).decode()
    assert "\n" in text
    assert load_image(Media(data=text), ANY_FILE).size == (40, 40)


@pytest.mark.parametrize("encoding", ["raw", "base64"])
def test_byte_range_of_dataset_file_is_read(tmp_path: Path, encoding: str) -> None:
    content = encode(make_red())
    stored = base64.b64encode(content) if encoding == "base64" else content
    path = tmp_path / "dataset.tsv"
    path.write_bytes(b"index\timage\n1\t" + stored + b"\n2\tmore")
    place = Media.model_validate({"uri": str(path), "offset": 14, "length": len(stored), "encoding": encoding})
    assert load_image(place, ANY_FILE).getpixel((5, 3)) == RED
    code, message = fault_of(place.model_copy(update={"length": 10**6}))
    assert code == "media_corrupt"
    assert f"{path}[14:+1000000]: the file is" in message


# Invalid media.


def test_missing_file_error_names_path_and_advice(tmp_path: Path) -> None:
    code, message = fault_of(Media(uri=str(tmp_path / "gone.png")))
    assert code == "media_missing"
    assert str(tmp_path / "gone.png") in message
    assert "media_root" in message


def test_media_without_source_is_missing() -> None:
    assert fault_of(Media())[0] == "media_missing"


def test_folder_pipe_and_invalid_path_are_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for path in (str(tmp_path), str(tmp_path / "pipe"), "a\0b", "a\ud800b", "x" * 5000, str(tmp_path / "file" / "in it")):
        assert fault_of(Media(uri=path))[0] == "media_unreadable"


def test_file_without_permission_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(make_red()))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)  # mode 000 has no effect for root
    code, message = fault_of(Media(uri=str(path)))
    assert code == "media_unreadable"
    assert "Permission denied" in message


@pytest.mark.parametrize(
    "uri", ["https://example.org/a.png", "http://example.org/a.png", "ftp://bucket/a.png", "file://other/a.png"]
)
def test_urls_are_disabled(uri: str) -> None:
    assert fault_of(Media(uri=uri))[0] == "media_unsupported"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("content", [b"", b"not an image", EPS, b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_content_that_is_not_an_image_is_corrupt(content: bytes) -> None:
    assert fault_of(inline(content))[0] == "media_corrupt"


@pytest.mark.parametrize("text", ["not base64!", "QUJ", "é"])
def test_invalid_base64_is_corrupt(text: str) -> None:
    code, message = fault_of(Media(data=text))
    assert code == "media_corrupt"
    assert "not valid base64" in message


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF"])
def test_truncated_file_is_corrupt(format_name: str) -> None:
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encode(noise, format_name)
    assert load_image(inline(content), ANY_FILE).size == (64, 64)
    assert fault_of(inline(content[: len(content) // 2]))[0] == "media_corrupt"


def test_decompression_bomb_is_rejected_before_decoding() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (8_001, 9_800, 30_000):  # over our limit, over the warning limit of Pillow, over the error limit of Pillow
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"never read") + chunk(b"IEND", b"")
        assert fault_of(inline(content))[0] == "media_too_large"


def test_large_file_is_rejected_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(make_red())
    path = tmp_path / "a.png"
    path.write_bytes(content)
    monkeypatch.setattr(media_module, "MAX_BYTES", len(content) - 3)
    assert fault_of(Media(uri=str(path)))[0] == "media_too_large"
    assert fault_of(inline(content))[0] == "media_too_large"


@settings(max_examples=150, deadline=None)
@given(
    format_name=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO", "TGA"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_file_gives_image_or_error_code(format_name: str, changes: list[tuple[float, int]]) -> None:
    content = bytearray(encode(make_red((16, 16)), format_name))
    for place, byte in changes:
        content[int(place * len(content))] = byte
    assert decode_result(bytes(content)) in {"RGB", "media_corrupt", "media_too_large"}


# Conversion of the image.


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise
    assert load_image(inline(encode(make_red((6, 4)), "JPEG", exif=exif)), ANY_FILE).size == (4, 6)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # workers/media/images.py sets this filter, but pytest's filters override it
def test_broken_exif_block_is_ignored() -> None:
    assert load_image(inline(encode(make_red(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")), ANY_FILE).size == (6, 4)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_becomes_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    opaque, transparent = (to_rgb(image.convert(mode)).getpixel((x, 0)) for x in (0, 1))
    assert transparent == (255, 255, 255)
    assert opaque != (255, 255, 255)


def test_partial_transparency_blends_with_white() -> None:
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 51))).getpixel((0, 0)) == (255, 204, 204)


def test_transparent_palette_colour_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    loaded = load_image(inline(encode(image, transparency=1)), ANY_FILE)
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [RED, (255, 255, 255)]


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_sixteen_bit_greyscale_is_scaled(format_name: str) -> None:
    values = np.array([[0, 257, 25_700, 65_535]], dtype=np.uint16)
    loaded = load_image(inline(encode(Image.fromarray(values), format_name)), ANY_FILE)
    assert np.asarray(loaded)[0].tolist() == [[value] * 3 for value in (0, 1, 100, 255)]


@pytest.mark.parametrize("most", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize(("dtype", "format_name"), [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF")])
def test_greyscale_depth_is_derived_from_values(most: int, dtype: type, format_name: str) -> None:
    values: np.ndarray = np.array([[0, most // 2, most - 1, most]], dtype=dtype)
    loaded = load_image(inline(encode(Image.fromarray(values), format_name)), ANY_FILE)
    assert np.asarray(loaded)[0, :, 0].tolist() == [0, 127, 254 if most == 255 else 255, 255]


def test_larger_value_selects_the_next_depth() -> None:
    values = np.array([[0, 2048, 4095, 4096]], dtype=np.uint16)
    assert np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == [0, 32, 64, 64]


def test_eight_bit_values_in_int32_are_unchanged() -> None:
    values = np.arange(256, dtype=np.int32).reshape(16, 16)
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(values)))[:, :, 0], values)


@pytest.mark.parametrize(
    "values", [np.array([[-1.5, 0.0, np.nan, 1.5]], np.float32), np.array([[-70_000, 0, 0, 70_000]], np.int32)]
)
def test_greyscale_without_a_fixed_range_is_stretched(values: np.ndarray) -> None:
    assert np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == [0, 128, 128, 255]


def test_constant_float_image_is_black() -> None:
    assert to_rgb(Image.new("F", (2, 2), 3.5)).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGB"])
def test_other_modes_keep_their_colours(mode: str) -> None:
    white = Image.new("RGB", (2, 2), "white").convert(mode)
    assert to_rgb(white).getpixel((1, 1)) == (255, 255, 255)


def test_first_frame_of_animation_is_used() -> None:
    frames = [make_red(), Image.new("RGB", (6, 4), "blue")]
    loaded = load_image(inline(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])), ANY_FILE)
    assert loaded.getpixel((0, 0)) == RED
