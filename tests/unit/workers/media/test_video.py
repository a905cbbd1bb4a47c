"""Reading videos as frames: choice, bounds and rotation of frames, and all kinds of invalid files."""

import base64
import io
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from av.video.frame import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.errors import SampleError
from common.records import Media
from common.spec.models import MediaBounds
from tests.support.media.media import AS_IS
from tests.support.media.videos import CODECS, SIZE, encode_sound, encode_video, read_number, write_streaming_mp4
from workers.media import video as media_video
from workers.media.files import MediaAccess
from workers.media.reader import open_media
from workers.media.video import FrameTarget, open_video

NO_FILES = MediaAccess((), urls=False, url_timeout_s=1)


def load(content: bytes, **bounds: int) -> tuple[Image.Image, ...]:
    return open_video(content, "film.mp4", MediaBounds(**bounds)).decode()


def read_numbers(content: bytes, **bounds: int) -> list[int]:
    return [read_number(image) for image in load(content, **bounds)]


def fault_of(content: bytes) -> tuple[str, str]:
    with pytest.raises(SampleError) as caught:
        load(content)
    return caught.value.code, str(caught.value)


# Choice of frames.


@pytest.mark.parametrize("format_name", CODECS)
@pytest.mark.parametrize("gop", [12, 1000])
def test_frames_are_midpoints_of_equal_intervals(format_name: str, gop: int) -> None:
    images = load(encode_video(120, format_name, gop=gop), max_frames=4)
    assert [read_number(image) for image in images] == [15, 45, 75, 105]
    assert {(image.mode, image.size) for image in images} == {("RGB", SIZE)}


def test_all_frames_of_short_video_are_used() -> None:
    assert read_numbers(encode_video(5)) == [0, 1, 2, 3, 4]
    assert read_numbers(encode_video(1)) == [0]
    assert len(read_numbers(encode_video(40))) == AS_IS.max_frames


def test_dense_keyframes_avoid_decoding_between_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[VideoFrame] = []
    decode = media_video._decode  # noqa: SLF001  # yields every decoded frame

    def note_frames(*given: Any) -> Iterator[VideoFrame]:
        for frame in decode(*given):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(media_video, "_decode", note_frames)
    assert read_numbers(encode_video(600, gop=10), max_frames=3) == [100, 300, 500]
    assert len(decoded) < 50


def test_seek_past_the_frame_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode_video(120, gop=10)
    choose = media_video._choose_frames  # noqa: SLF001  # the test makes its seeks point past the frames

    def mislead(*given: Any, **seeks: Any) -> tuple[FrameTarget, ...]:
        wanted = choose(*given, **seeks)
        return tuple(one._replace(seek_pts=one.seek_pts and one.pts + 20 * 512) for one in wanted)

    monkeypatch.setattr(media_video, "_choose_frames", mislead)
    assert read_numbers(content, max_frames=4) == [15, 45, 75, 105]


# Times of frames.


@pytest.mark.parametrize("format_name", CODECS)
def test_frames_have_their_number_and_rate(format_name: str) -> None:
    times = open_video(encode_video(120, format_name), "film", MediaBounds(max_frames=4)).decode().times
    assert (times.total, times.numbers, round(times.fps, 2)) == (120, (15, 45, 75, 105), 25)


def test_single_frame_has_the_declared_rate() -> None:
    times = open_video(encode_video(1), "film", AS_IS).decode().times
    assert (times.total, times.numbers, times.fps) == (1, (0,), 25)


def test_numbers_of_varying_rate_state_the_time() -> None:
    """After 51 frames in 2 s, 50 frames take 98 s."""
    packets = [(40 * index, True) for index in range(51)] + [(2000 + 1960 * index, True) for index in range(1, 51)]
    targets = media_video._choose_frames(packets, 4, seeks=False)  # noqa: SLF001
    assert [target.pts for target in targets] == [480, 1480, 27480, 76480]
    assert [target.number for target in targets] == [round(target.pts / 1000) for target in targets]


@given(
    gaps=st.lists(st.integers(0, 10_000), max_size=60),
    max_frames=st.integers(1, 40),
)
def test_numbers_ascend_within_the_video(gaps: list[int], max_frames: int) -> None:
    packets = [(timestamp, True) for timestamp in accumulate(gaps, initial=0)]
    numbers = [target.number for target in media_video._choose_frames(packets, max_frames, seeks=True)]  # noqa: SLF001
    assert numbers == sorted(set(numbers))
    assert 0 <= numbers[0] <= numbers[-1] < len(packets)


# Conversion of frames.


def test_frames_are_scaled_to_the_bounds() -> None:
    content = encode_video(30)
    small = load(content, max_pixels=SIZE[0] * SIZE[1] // 4, max_frames=3)
    assert [image.size for image in small] == [(SIZE[0] // 2, SIZE[1] // 2)] * 3
    assert [read_number(image) for image in small] == [5, 15, 25]
    large = load(content, min_pixels=4 * SIZE[0] * SIZE[1], max_frames=1)
    assert large[0].size == (2 * SIZE[0], 2 * SIZE[1])


@pytest.mark.parametrize(
    ("rotation", "back"),
    [(90, Image.Transpose.ROTATE_270), (180, Image.Transpose.ROTATE_180), (-90, Image.Transpose.ROTATE_90)],
)
def test_file_rotation_is_applied(rotation: int, back: Image.Transpose) -> None:
    images = load(encode_video(9, rotation=rotation), max_frames=2)
    assert {image.size for image in images} == {SIZE if rotation == 180 else SIZE[::-1]}
    assert [read_number(image.transpose(back)) for image in images] == [2, 6]


def test_colours_are_kept() -> None:
    (image,) = load(encode_video(1))
    red, green, blue = image.getpixel((SIZE[0] // 2, SIZE[1] * 3 // 4))  # type: ignore[misc]  # the pixel is RGB
    assert abs(red - 200) < 12
    assert max(green, blue) < 24


def test_video_is_read_from_inline_data() -> None:
    media = Media(kind="video", data=base64.b64encode(encode_video(3)).decode())
    assert [read_number(image) for image in open_media(media, NO_FILES, AS_IS).decode()] == [0, 1, 2]


# Invalid videos.


def encode_picture(format_name: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", SIZE, "red").save(stream, format_name)
    return stream.getvalue()


INVALID_VIDEOS: dict[str, Callable[[], bytes]] = {
    "text": lambda: b"not a video",
    "noise": lambda: bytes(range(256)) * 64,
    "picture": lambda: encode_picture("JPEG"),
    "zeros": lambda: bytes(10_000),
    "truncated before the index": lambda: (content := encode_video(60))[: len(content) * 9 // 10],
    "playlist": lambda: b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n",
    "list of files": lambda: b"ffconcat version 1.0\nfile /etc/passwd\n",
}


@pytest.mark.parametrize("make", INVALID_VIDEOS.values(), ids=INVALID_VIDEOS)
def test_content_that_is_not_a_video_is_corrupt(make: Callable[[], bytes]) -> None:
    code, message = fault_of(make())
    assert code == "media_corrupt"
    assert message.startswith("film.mp4: not a video, cut off, or damaged; replace the file")


def test_audio_only_file_is_corrupt_with_reason() -> None:
    assert fault_of(encode_sound()) == ("media_corrupt", "film.mp4: no video in it, only audio; check the path in the dataset")


def test_file_truncated_after_index_is_corrupt(tmp_path: Path) -> None:
    content = write_streaming_mp4(tmp_path / "film.mp4", 120)
    assert read_numbers(content, max_frames=1) == [60]
    code, message = fault_of(content[: len(content) * 2 // 3])
    assert code == "media_corrupt"
    assert "cut off after" in message


def claim(count: int) -> bytes:
    """Return a video whose index claims ``count`` frames of equal size."""
    content = bytearray(encode_video(30))
    at = content.index(b"stsz") + 8
    content[at : at + 8] = (7).to_bytes(4) + count.to_bytes(4)
    return bytes(content)


def test_excessive_frame_count_is_rejected_early() -> None:
    assert fault_of(claim(10**9)) == (
        "media_too_large",
        "film.mp4: it declares 1000000000 frames, but at most 2000000 are allowed; cut the video",
    )
    assert fault_of(claim(100_000))[0] == "media_corrupt"


def test_too_many_packets_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_video, "MOST_FRAMES", 29)
    assert fault_of(encode_video(30, "matroska"))[0] == "media_too_large"


def test_too_large_frames_are_rejected_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_video, "MOST_PIXELS", SIZE[0] * SIZE[1] - 1)
    assert fault_of(encode_video(3))[0] == "media_too_large"


def test_slow_video_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_video, "MOST_S", -1.0)
    code, message = fault_of(encode_video(30))
    assert code == "media_too_large"
    assert "more keyframes" in message


def test_empty_file_error_expects_a_video() -> None:
    with pytest.raises(SampleError, match=r"it is empty \(0 bytes\); expected a video"):
        open_media(Media(kind="video", data=""), NO_FILES, AS_IS)


def test_missing_pyav_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "workers.media.video")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SampleError, match=r"pip install 'vlm-fleet\[video\]' on the workers") as caught:
        open_media(Media(kind="video", data="AAAA"), NO_FILES, AS_IS)
    assert caught.value.code == "media_unsupported"


WHOLE = {name: encode_video(30, name) for name in ("mp4", "matroska", "avi", "mpegts")}


@settings(max_examples=120)
@given(
    format_name=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_file_gives_frames_or_error_code(format_name: str, changes: list[tuple[float, int]]) -> None:
    content = bytearray(WHOLE[format_name])
    for place, byte in changes:
        content[int(place * len(content))] = byte
    try:
        images = load(bytes(content), max_frames=3)
    except SampleError as error:
        assert error.code in {"media_corrupt", "media_too_large", "media_unsupported"}  # noqa: PT017  # an error and frames are both correct
    else:
        assert 0 < len(images) <= 3
        assert {image.mode for image in images} == {"RGB"}
