"""Decode videos into frames with PyAV (the extra ``video``). The module is imported only when a sample has a video.

The headers of a file may be wrong. Therefore one pass over the packets, without decoding, counts the frames and finds the
keyframes, which can be decoded without other frames.
"""

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple, NoReturn

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from common.errors import SampleError
from common.spec.models import MOST_PIXELS, MediaBounds
from workers.media.frames import Frames, FrameTimes
from workers.media.images import PIXEL_BYTES, fit_size

MOST_FRAMES = 2_000_000  # 18 hours at 30 frames a second
MOST_S = 60.0  # time limit for decoding one video, in seconds

# An explicit list, because playlists and scripts name other files, which FFmpeg would open.
_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif"
# The MP4 boxes that declare the number of samples in the file. FFmpeg allocates about 70 bytes for each declared sample when
# it opens the file, so the number is checked before.
_COUNT_BOXES = ((b"stsz", 12), (b"trun", 8))  # the name of the box, and the offset of its count from the name
_DECODER_FRAMES = 20  # H.264 and HEVC refer back to 16 frames; a few more are in the decoder's queue
_NO_TIMESTAMP = 2**63  # later than every requested time
_MIN_SKIPPED_FRAMES = 8  # a seek is faster only if it skips more frames than this
_ROTATIONS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


class FrameTarget(NamedTuple):
    """A frame to extract: the first one at or after ``pts``, in units of the stream's time base.

    ``seek_pts`` is the keyframe to seek to. It is ``None`` unless the seek skips enough frames. ``number`` is the position of
    the frame in the video, from 0.
    """

    pts: int
    seek_pts: int | None
    number: int


@dataclass(frozen=True)
class OpenedVideo:
    """A video whose frames were counted and chosen.

    ``fps`` is the mean frame rate, and ``total`` the number of all frames. ``target`` is the (width, height) of the decoded
    frames in pixels, before they are rotated upright. ``peak_bytes`` is an upper bound of the memory that decoding takes.
    """

    name: str
    content: bytes
    frame_targets: tuple[FrameTarget, ...]
    fps: float
    total: int
    target: tuple[int, int]
    peak_bytes: int

    def decode(self) -> Frames:
        """Return the chosen frames in mode RGB, rotated upright, and their times.

        Fewer frames are returned if some are damaged. Raises ``SampleError``: ``media_corrupt`` if fewer than half of the
        frames can be decoded, ``media_too_large`` after ``MOST_S`` seconds.
        """
        ends_at = time.monotonic() + MOST_S
        decoded = self._decode_targets(ends_at, seeks=True)
        if decoded is None:
            decoded = self._decode_targets(ends_at, seeks=False) or {}
        if 2 * len(decoded) < len(self.frame_targets):
            found = f"{len(decoded)} of {len(self.frame_targets)} frames can be decoded; replace the file"
            raise SampleError("media_corrupt", f"{self.name}: {found}")
        return Frames(decoded.values(), FrameTimes(self.fps, self.total, tuple(decoded)))

    def _decode_targets(self, ends_at: float, *, seeks: bool) -> dict[int, Image.Image] | None:
        """Return the chosen frames by number, or ``None`` if a seek failed or ended after its frame.

        Both may occur in a file without an index.
        """
        images: dict[int, Image.Image] = {}
        with _open(self.content, self.name) as (container, stream):
            frames = _decode(container, stream, self.name, ends_at)
            for frame_target in self.frame_targets:
                must_seek = seeks and frame_target.seek_pts is not None
                if must_seek:
                    try:
                        container.seek(frame_target.seek_pts or 0, stream=stream)
                    except av.error.FFmpegError:
                        return None
                    frames = _decode(container, stream, self.name, ends_at)
                frame = next(frames, None)
                if must_seek and (frame is None or _timestamp_of(frame) > frame_target.pts):
                    return None
                while frame is not None and _timestamp_of(frame) < frame_target.pts:
                    frame = next(frames, None)
                if frame is not None:
                    images[frame_target.number] = self._convert(frame)
        return images

    def _convert(self, frame: VideoFrame) -> Image.Image:
        width, height = self.target
        image: Image.Image = frame.to_image(width=width, height=height, interpolation="BICUBIC")  # type: ignore[no-untyped-call]  # by PyAV
        rotation = _ROTATIONS.get(frame.rotation % 360)
        return image if rotation is None else image.transpose(rotation)


def open_video(content: bytes, name: str, bounds: MediaBounds) -> OpenedVideo:
    """Count the frames of the video in ``content`` and choose frames to extract. ``name`` names the video in error messages.

    Raises ``SampleError`` with ``media_corrupt``, ``media_too_large`` or ``media_unsupported``.
    """
    _check_declared_counts(content, name)
    with _open(content, name) as (container, stream):
        size = stream.width, stream.height
        if size[0] * size[1] > MOST_PIXELS:
            found = f"its frames have {size[0]} x {size[1]} pixels, but at most {MOST_PIXELS} are allowed; scale the video down"
            raise SampleError("media_too_large", f"{name}: {found}")
        packets = _list_packets(container, stream, name)
        has_timestamps = container.format.name != "mpeg"  # FFmpeg guesses them in MPEG, with a different result after each seek
        bits = stream.format.padded_bits_per_pixel if stream.format else 48
        fps = _find_rate(packets, stream)
    frame_targets = _choose_frames(packets, bounds.max_frames, seeks=has_timestamps)
    target = fit_size(size, bounds)
    decoder_bytes = _DECODER_FRAMES * size[0] * size[1] * bits // 8
    image_bytes = (len(frame_targets) + 2) * target[0] * target[1] * PIXEL_BYTES
    return OpenedVideo(name, content, frame_targets, fps, len(packets), target, len(content) + decoder_bytes + image_bytes)


def _check_declared_counts(content: bytes, name: str) -> None:
    """Raise ``SampleError`` if an MP4 box declares more than ``MOST_FRAMES`` samples."""
    for box, offset in _COUNT_BOXES:
        at = content.find(box)
        while at >= 0:
            flags, count = content[at + 4 : at + 8], int.from_bytes(content[at + offset : at + offset + 4])
            # A box begins with its version and flags. Image data are unlikely to contain these zeros after a box name.
            if flags[:1] in (b"\0", b"\1") and flags[1:2] == b"\0" and flags[2:] < b"\x10" and count > MOST_FRAMES:
                raise _too_many(name, count)
            at = content.find(box, at + 4)


def _list_packets(container: InputContainer, stream: VideoStream, name: str) -> list[tuple[int, bool]]:
    """Return the presentation timestamp of each frame, in order, and whether the frame is a keyframe."""
    packets: list[tuple[int, bool]] = []
    last: Packet[VideoStream] | None = None
    for packet in container.demux(stream):
        timestamp = packet.dts if packet.pts is None else packet.pts
        if timestamp is not None:
            last = packet
            if not packet.is_discard:
                packets.append((timestamp, packet.is_keyframe))
        if len(packets) > MOST_FRAMES:
            raise _too_many(name, len(packets))
    if last is None or not packets:
        raise SampleError("media_corrupt", f"{name}: there are no frames in it; replace the file")
    if last.is_corrupt:
        raise SampleError("media_corrupt", f"{name}: it is cut off after {len(packets)} frames; copy the file again")
    return sorted(packets)


def _choose_frames(packets: Sequence[tuple[int, bool]], max_frames: int, *, seeks: bool) -> tuple[FrameTarget, ...]:
    """Return the middle frames of ``max_frames`` equal spans, or all frames if there are not more than ``max_frames``.

    The number of a frame is its position, if the frame rate is constant. Otherwise it is the position that a frame with its time
    would have at the mean rate. Numbers ascend.
    """
    total, count = len(packets), min(len(packets), max_frames)
    keys = [index for index, (_, is_key) in enumerate(packets) if is_key and seeks]
    first_pts, length = packets[0][0], max(1, packets[-1][0] - packets[0][0])
    targets: list[FrameTarget] = []
    previous = number = -1
    for span in range(count):
        index = (2 * span + 1) * total // (2 * count)
        before = bisect_right(keys, index) - 1
        must_seek = before >= 0 and keys[before] - previous > _MIN_SKIPPED_FRAMES
        pts = packets[index][0]
        number = min(max(number + 1, round((pts - first_pts) * (total - 1) / length)), total - count + span)
        targets.append(FrameTarget(pts, packets[keys[before]][0] if must_seek else None, number))
        previous = index
    return tuple(targets)


def _find_rate(packets: Sequence[tuple[int, bool]], stream: VideoStream) -> float:
    """Return the mean number of frames a second by the timestamps, or the declared rate if they do not show it."""
    length = packets[-1][0] - packets[0][0]
    if length and stream.time_base:
        return float((len(packets) - 1) / (length * stream.time_base))
    return float(stream.average_rate or 1)


@contextmanager
def _open(content: bytes, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Yield the container and its video stream, and convert every exception of PyAV into a ``SampleError``."""
    try:
        with av.open(BytesIO(content), "r", container_options={"format_whitelist": _FORMATS}, io_open=_refuse) as container:
            yield container, _find_stream(container, name)
    except SampleError:
        raise
    except MemoryError as error:
        raise SampleError("media_too_large", f"{name}: it does not fit into memory; scale the video down") from error
    except Exception as error:
        # FFmpeg's demuxers and decoders fail with any of its error codes, and PyAV raises ValueError, OverflowError and others.
        message = f"{name}: not a video, cut off, or damaged; replace the file ({type(error).__name__}: {error})"
        raise SampleError("media_corrupt", message) from error


def _refuse(url: str, flags: int, options: object) -> NoReturn:
    del flags, options
    raise PermissionError(f"a video may not open another file: {url}")


def _find_stream(container: InputContainer, name: str) -> VideoStream:
    stream = next((one for one in container.streams.video if not one.disposition & Disposition.attached_pic), None)
    if stream is None:
        kinds = ", ".join(sorted({one.type for one in container.streams})) or "nothing"
        raise SampleError("media_corrupt", f"{name}: no video in it, only {kinds}; check the path in the dataset")
    if stream.codec_context is None:
        raise SampleError("media_unsupported", f"{name}: there is no decoder for its codec; encode it as H.264, for example")
    stream.codec_context.thread_count = 1  # the media loader already runs as many threads as the settings allow
    stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # frames may become larger after the first
    return stream


def _decode(container: InputContainer, stream: VideoStream, name: str, ends_at: float) -> Iterator[VideoFrame]:
    for packet in container.demux(stream):
        if time.monotonic() > ends_at:
            message = f"{name}: decoding takes more than {MOST_S:g} s; cut the video, scale it down, or give it more keyframes"
            raise SampleError("media_too_large", message)
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue  # a decoder can continue after a damaged packet


def _timestamp_of(frame: VideoFrame) -> int:
    """Return the presentation timestamp of a frame.

    A frame without a timestamp gets a time later than every target, so that it is used immediately.
    """
    timestamp = frame.dts if frame.pts is None else frame.pts
    return _NO_TIMESTAMP if timestamp is None else timestamp


def _too_many(name: str, count: int) -> SampleError:
    message = f"{name}: it declares {count} frames, but at most {MOST_FRAMES} are allowed; cut the video"
    return SampleError("media_too_large", message)
