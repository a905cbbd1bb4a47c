"""The reader drops the metadata of image files. Endpoints receive only pixels."""

import base64
import io
from typing import Any, Literal

import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from common.spec.models import MediaBounds
from workers.engines.openai.options import OpenAIOptions
from workers.engines.openai.wire import write_data_url
from workers.media.images import open_image

SIZE = (64, 48)
PATIENT = "Jane Doe, ward 7"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_DESCRIPTION, _ORIENTATION = 270, 274
_TURN_RIGHT = 6


def write_with_metadata(format_name: str) -> bytes:
    """Return a rotated image with a comment, EXIF, XMP and a colour profile."""
    exif = Image.Exif()
    exif[_DESCRIPTION], exif[_ORIENTATION] = PATIENT, _TURN_RIGHT
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a>{PATIENT}</a></x:xmpmeta>'
    notes = PngInfo()
    notes.add_text("Comment", PATIENT)
    notes.add_itxt("XML:com.adobe.xmp", xmp)
    options: dict[str, Any] = {"pnginfo": notes} if format_name == "PNG" else {"comment": PATIENT, "xmp": xmp.encode()}
    stream = io.BytesIO()
    Image.new("RGB", SIZE, "red").save(stream, format_name, exif=exif, icc_profile=PROFILE, dpi=(300, 300), **options)
    return stream.getvalue()


@pytest.mark.parametrize("bounds", [MediaBounds(), MediaBounds(max_pixels=300)], ids=["original size", "scaled down"])
@pytest.mark.parametrize("sent", ["png", "jpeg"])
@pytest.mark.parametrize("format_name", ["PNG", "JPEG"])
def test_only_pixels_are_sent(format_name: str, sent: Literal["png", "jpeg"], bounds: MediaBounds) -> None:
    content = write_with_metadata(format_name)
    info = Image.open(io.BytesIO(content)).info
    assert {"exif", "icc_profile"} <= info.keys()
    assert PATIENT in str(info)

    (image,) = open_image(content, "scan", bounds).decode()
    assert image.height > image.width, "the reader applies the orientation before it drops EXIF"
    assert (image.info, dict(image.getexif())) == ({}, {})
    url = write_data_url(image, OpenAIOptions(image_format=sent))
    uploaded = base64.b64decode(url.partition(",")[2])
    assert PATIENT.encode() not in uploaded
    found = Image.open(io.BytesIO(uploaded))
    assert found.size == image.size
    assert found.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
