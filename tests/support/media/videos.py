"""Small videos whose frames show their number as black and white squares, so that a test can identify each frame."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image

SIZE = (160, 96)
_SQUARE = 16
_BITS = SIZE[0] // _SQUARE

# The codec of each container format.
CODECS = {
    "mp4": "libx264",
    "matroska": "libx264",
    "webm": "libvpx-vp9",
    "avi": "mpeg4",
    "mov": "mjpeg",
    "mpegts": "libx264",
    "flv": "libx264",
    "mpeg": "mpeg2video",
    "asf": "wmv2",
}


def paint_number(number: int) -> Image.Image:
    """Return an image of ``SIZE``: the upper squares show a number below 1024, lowest bit first; the lower half is red."""
    pixels = np.full((SIZE[1], SIZE[0], 3), (200, 0, 0), np.uint8)
    for bit in range(_BITS):
        pixels[: SIZE[1] // 2, bit * _SQUARE : (bit + 1) * _SQUARE] = 255 * (number >> bit & 1)
    return Image.fromarray(pixels)


def read_number(image: Image.Image) -> int:
    """Return the number of a frame of ``SIZE``, or of another size with the same aspect ratio."""
    pixels = np.asarray(image.resize(SIZE).convert("L"))
    return sum(int(pixels[SIZE[1] // 4, bit * _SQUARE + _SQUARE // 2] > 127) << bit for bit in range(_BITS))


def encode_video(
    count: int, format_name: str = "mp4", *, gop: int = 12, rotation: int = 0, options: dict[str, str] | None = None
) -> bytes:
    """Return a video of ``count`` numbered frames at 25 a second with a keyframe every ``gop``."""
    sink = io.BytesIO()
    _encode(sink, count, format_name, gop, rotation, options or {})
    return sink.getvalue()


def write_streaming_mp4(path: Path, count: int) -> bytes:
    """Return an MP4 file with its index at the start, as for the web; moving the index there needs a file at ``path``."""
    _encode(str(path), count, "mp4", 12, 0, {"movflags": "faststart"})
    return path.read_bytes()


def encode_sound() -> bytes:
    """Return an MP4 file with half a second of silence and without video."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()


def _encode(sink: io.BytesIO | str, count: int, format_name: str, gop: int, rotation: int, options: dict[str, str]) -> None:
    with av.open(sink, "w", format=format_name, options=options) as container:
        stream = container.add_stream(CODECS[format_name], rate=Fraction(25))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuvj420p" if CODECS[format_name] == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        if CODECS[format_name] == "libx264":
            stream.codec_context.options = {"preset": "ultrafast", "sc_threshold": "0", "bf": "2"}
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(paint_number(number)))))
        container.mux(stream.encode(None))
