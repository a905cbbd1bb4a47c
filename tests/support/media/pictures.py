"""Small PNG pictures of one colour, and collections of files that contain them."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from PIL import Image


def make_png(colour: str = "red", size: int = 8) -> bytes:
    """Return a PNG of one colour. Its size is ``size`` by ``size`` pixels."""
    stream = BytesIO()
    Image.new("RGB", (size, size), colour).save(stream, "PNG")
    return stream.getvalue()


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write files by relative path and return the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
