"""Bounds of media: resulting sizes, cheaper decoding and their effect on the run id."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from common.errors import ConfigError
from common.spec.files import read_profile, read_specs
from common.spec.models import MOST_PIXELS, MediaBounds, RunSpec
from workers.media.images import fit_size, open_image

DEMO = Path(__file__).parents[4] / "examples" / "demo.yaml"


def encode(image: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_name, **options)
    return stream.getvalue()


def make_photo(size: tuple[int, int]) -> Image.Image:
    """Return an image of smooth noise. It scales like a photo."""
    noise = np.random.default_rng(7).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def load(content: bytes, **bounds: int) -> Image.Image:
    return open_image(content, "photo.jpg", MediaBounds(**bounds)).decode()[0]


# Sizes.


@pytest.mark.parametrize(
    ("size", "bounds", "fitted"),
    [
        ((4000, 3000), {}, (4000, 3000)),
        ((4000, 3000), {"max_pixels": 12_000_000}, (4000, 3000)),
        ((4000, 3000), {"max_pixels": 3_000_000}, (2000, 1500)),
        ((3000, 4000), {"max_pixels": 3_000_000}, (1500, 2000)),
        ((10, 20), {"min_pixels": 800}, (20, 40)),
        ((10, 20), {"min_pixels": 200, "max_pixels": 200}, (10, 20)),
        ((1, 1_000_000), {"max_pixels": 100}, (1, 100)),
        ((1_000_000, 1), {"max_pixels": 100}, (100, 1)),
    ],
)
def test_sizes_keep_aspect_ratio_within_bounds(size: tuple[int, int], bounds: dict[str, int], fitted: tuple[int, int]) -> None:
    assert fit_size(size, MediaBounds(**bounds)) == fitted


@given(
    width=st.integers(1, 20_000),
    height=st.integers(1, 20_000),
    least=st.integers(1, MOST_PIXELS),
    most=st.integers(1, MOST_PIXELS),
)
def test_size_is_never_empty_or_over_bound(width: int, height: int, least: int, most: int) -> None:
    least, most = sorted((least, most))
    fitted = fit_size((width, height), MediaBounds(min_pixels=least, max_pixels=most))
    assert min(fitted) >= 1
    assert fitted[0] * fitted[1] <= most
    if least <= width * height <= most:
        assert fitted == (width, height)


# Images.


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_scaled_down_image_matches_the_original(format_name: str) -> None:
    photo = make_photo((1600, 1200))
    small = load(encode(photo, format_name), max_pixels=120_000)
    assert (small.mode, small.size) == ("RGB", (400, 300))
    expected = np.asarray(photo.resize((400, 300), Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(np.asarray(small, dtype=int) - expected).mean() < 3


def test_scaling_down_does_not_alias_thin_lines() -> None:
    lines = np.zeros((1200, 1600, 3), np.uint8)
    lines[:, ::2] = 255
    small = np.asarray(load(encode(Image.fromarray(lines)), max_pixels=120_000), dtype=int)
    assert np.abs(small - 128).max() <= 2


def test_small_image_is_scaled_up() -> None:
    assert load(encode(make_photo((20, 10))), min_pixels=800).size == (40, 20)


def test_bounds_apply_after_exif_rotation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise
    content = encode(make_photo((1600, 800)), "JPEG", exif=exif)
    assert load(content, max_pixels=80_000).size == (200, 400)
    assert load(content, min_pixels=4 * 1600 * 800).size == (1600, 3200)


def test_scaled_down_jpeg_is_decoded_at_reduced_size() -> None:
    content = encode(make_photo((1600, 1200)), "JPEG")
    whole, small = (open_image(content, "photo.jpg", MediaBounds(max_pixels=bound)) for bound in (None, 30_000))
    assert small.image.size == (400, 300), "decoding at twice the final size keeps the quality"
    assert small.decode()[0].size == (200, 150)
    assert small.peak_bytes < whole.peak_bytes / 8


# Profiles and runs.


def make_spec(media: dict[str, Any]) -> RunSpec:
    (spec,) = read_specs(DEMO)
    return spec.model_copy(update={"model": spec.model.model_copy(update={"media": MediaBounds(**media)})})


def test_default_bounds_keep_the_run_id() -> None:
    assert make_spec({}).run_id == make_spec({"max_frames": 16, "video_input": "auto"}).run_id == "tiny-d3d47bebbfcd"


@pytest.mark.parametrize(
    "media", [{"max_pixels": 10**6}, {"min_pixels": 10}, {"max_frames": 8}, {"video_input": "native"}, {"video_input": "frames"}]
)
def test_bounds_change_the_run_id(media: dict[str, Any]) -> None:
    assert make_spec(media).digest() != make_spec({}).digest()
    assert RunSpec.model_validate_json(make_spec(media).model_dump_json()) == make_spec(media)


@pytest.mark.parametrize(
    "media",
    [
        {"max_pixels": 0},
        {"max_frames": 0},
        {"max_frames": True},
        {"min_pixels": 2, "max_pixels": 1},
        {"max_pixel": 9},
        {"video_input": "video"},
    ],
)
def test_invalid_bounds_are_rejected(media: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MediaBounds(**media)


def test_error_in_profile_suggests_nearest_field(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nengine: echo\nmedia: {max_pixel: 1000}\n")
    with pytest.raises(ConfigError, match=r"media\.max_pixel: unknown field .*did you mean 'max_pixels'\?"):
        read_profile(str(path))
