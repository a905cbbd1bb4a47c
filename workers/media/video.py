"""Videos into frames, through PyAV (the extra ``video``).  Imported only once a video comes.

No header is believed: one pass over the packets, which decodes nothing, finds how many frames there really are and which of
them can be decoded by themselves.
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
from workers.media.images import PIXEL_BYTES, fit_size

MOST_FRAMES = 2_000_000  # 18 hours at 30 a second
MOST_S = 60.0  # for decoding one video

# A list of our own: playlists and scripts name other files, which FFmpeg would open.
_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif"
# How many samples an MP4 file claims to hold.  FFmpeg takes some 70 bytes for each before it can be asked for anything.
_CLAIMS = ((b"stsz", 12), (b"trun", 8))  # the box's name, and where its count begins behind that
_DECODER_FRAMES = 20  # H.264 and HEVC refer back to 16 frames; a few are on their way
_LATE = 2**63
_WORTH_A_SEEK = 8  # frames that need not be decoded
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


class Wanted(NamedTuple):
    """A frame to take: the first one at or after ``pts``.  ``seek_pts`` is set where a seek saves decoding those between."""

    pts: int
    seek_pts: int | None


@dataclass(frozen=True)
class OpenedVideo:
    """A video whose frames were counted and chosen.  ``target`` is the size that they will have before they are turned."""

    name: str
    content: bytes
    wanted: tuple[Wanted, ...]
    target: tuple[int, int]
    peak_bytes: int

    def decode(self) -> tuple[Image.Image, ...]:
        """Return the chosen frames in mode RGB, turned upright.  Raises ``SampleError``."""
        ends_at = time.monotonic() + MOST_S
        images = self._collect(ends_at, seeks=True)
        if images is None:
            images = self._collect(ends_at, seeks=False) or []
        if 2 * len(images) < len(self.wanted):
            found = f"{len(images)} of {len(self.wanted)} frames can be decoded; replace the file"
            raise SampleError("media_corrupt", f"{self.name}: {found}")
        return tuple(images)

    def _collect(self, ends_at: float, *, seeks: bool) -> list[Image.Image] | None:
        """Return the frames; ``None`` if a seek failed, or came out behind its frame, as it may where a file has no index."""
        images: list[Image.Image] = []
        with _open(self.content, self.name) as (container, stream):
            frames = _decode(container, stream, self.name, ends_at)
            for wanted in self.wanted:
                is_sought = seeks and wanted.seek_pts is not None
                if is_sought:
                    try:
                        container.seek(wanted.seek_pts or 0, stream=stream)
                    except av.error.FFmpegError:
                        return None
                    frames = _decode(container, stream, self.name, ends_at)
                frame = next(frames, None)
                if is_sought and (frame is None or _time_of(frame) > wanted.pts):
                    return None
                while frame is not None and _time_of(frame) < wanted.pts:
                    frame = next(frames, None)
                if frame is not None:
                    images.append(self._convert(frame))
        return images

    def _convert(self, frame: VideoFrame) -> Image.Image:
        width, height = self.target
        image: Image.Image = frame.to_image(width=width, height=height, interpolation="BICUBIC")  # type: ignore[no-untyped-call]  # by PyAV
        turn = _TURNS.get(frame.rotation % 360)
        return image if turn is None else image.transpose(turn)


def open_video(content: bytes, name: str, bounds: MediaBounds) -> OpenedVideo:
    """Count the frames of the video that ``content`` holds and choose those to take; ``name`` is for messages.

    Raises ``SampleError`` with ``media_corrupt``, ``media_too_large`` or ``media_unsupported``.
    """
    _check_claims(content, name)
    with _open(content, name) as (container, stream):
        size = stream.width, stream.height
        if size[0] * size[1] > MOST_PIXELS:
            found = f"frames of {size[0]} x {size[1]} pixels, at most {MOST_PIXELS} are allowed; scale it down"
            raise SampleError("media_too_large", f"{name}: {found}")
        packets = _list_packets(container, stream, name)
        has_times = container.format.name != "mpeg"  # guessed there, differently after each seek
        bits = stream.format.padded_bits_per_pixel if stream.format else 48
    wanted = _choose(packets, bounds.max_frames, seeks=has_times)
    target = fit_size(size, bounds)
    decoder_bytes = _DECODER_FRAMES * size[0] * size[1] * bits // 8
    image_bytes = (len(wanted) + 2) * target[0] * target[1] * PIXEL_BYTES
    return OpenedVideo(name, content, wanted, target, len(content) + decoder_bytes + image_bytes)


def _check_claims(content: bytes, name: str) -> None:
    for box, offset in _CLAIMS:
        at = content.find(box)
        while at >= 0:
            flags, count = content[at + 4 : at + 8], int.from_bytes(content[at + offset : at + offset + 4])
            # A box begins with its version and flags; such zeros are not found by chance in the pictures' data.
            if flags[:1] in (b"\0", b"\1") and flags[1:2] == b"\0" and flags[2:] < b"\x10" and count > MOST_FRAMES:
                raise _too_many(name, count)
            at = content.find(box, at + 4)


def _list_packets(container: InputContainer, stream: VideoStream, name: str) -> list[tuple[int, bool]]:
    """Return when each frame is shown, in order, and whether it is a keyframe."""
    packets: list[tuple[int, bool]] = []
    last: Packet[VideoStream] | None = None
    for packet in container.demux(stream):
        shown_at = packet.dts if packet.pts is None else packet.pts
        if shown_at is not None:
            last = packet
            if not packet.is_discard:
                packets.append((shown_at, packet.is_keyframe))
        if len(packets) > MOST_FRAMES:
            raise _too_many(name, len(packets))
    if last is None or not packets:
        raise SampleError("media_corrupt", f"{name}: there are no frames in it; replace the file")
    if last.is_corrupt:
        raise SampleError("media_corrupt", f"{name}: it is cut off after {len(packets)} frames; copy the file again")
    return sorted(packets)


def _choose(packets: Sequence[tuple[int, bool]], most: int, *, seeks: bool) -> tuple[Wanted, ...]:
    """Return the middle frames of ``most`` equal spans, or all frames if there are no more."""
    count = min(len(packets), most)
    keys = [index for index, (_, is_key) in enumerate(packets) if is_key and seeks]
    wanted, previous = [], -1
    for span in range(count):
        index = (2 * span + 1) * len(packets) // (2 * count)
        before = bisect_right(keys, index) - 1
        is_worth_it = before >= 0 and keys[before] - previous > _WORTH_A_SEEK
        wanted.append(Wanted(packets[index][0], packets[keys[before]][0] if is_worth_it else None))
        previous = index
    return tuple(wanted)


@contextmanager
def _open(content: bytes, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Yield the container and its video stream; turn whatever PyAV raises into a ``SampleError``."""
    try:
        with av.open(BytesIO(content), "r", container_options={"format_whitelist": _FORMATS}, io_open=_refuse) as container:
            yield container, _find_stream(container, name)
    except SampleError:
        raise
    except MemoryError as error:
        raise SampleError("media_too_large", f"{name}: it does not fit into memory; scale it down") from error
    except Exception as error:
        # FFmpeg's demuxers and decoders fail with any of its codes, and PyAV with ValueError, OverflowError, ...
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
    stream.codec_context.thread_count = 1  # our own threads are as many as are wanted
    stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # a stream may grow after its first frame
    return stream


def _decode(container: InputContainer, stream: VideoStream, name: str, ends_at: float) -> Iterator[VideoFrame]:
    for packet in container.demux(stream):
        if time.monotonic() > ends_at:
            message = f"{name}: decoding takes more than {MOST_S:g} s; cut the video, scale it down, or give it more keyframes"
            raise SampleError("media_too_large", message)
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue  # decoders go on behind a damaged packet


def _time_of(frame: VideoFrame) -> int:
    """Return when a frame is shown; one that does not say so is late, and taken at once."""
    shown_at = frame.dts if frame.pts is None else frame.pts
    return _LATE if shown_at is None else shown_at


def _too_many(name: str, count: int) -> SampleError:
    return SampleError("media_too_large", f"{name}: it claims {count} frames, at most {MOST_FRAMES} are taken; cut the video")
