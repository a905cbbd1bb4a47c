"""The frames of a decoded video, with their times."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image


class FrameTimes(NamedTuple):
    """The times of frames: a video has ``total`` frames at ``fps`` a second, and these frames have the ``numbers``, from 0.

    ``fps`` is the mean rate. If the rate varies, a number states the time of its frame: ``number / fps`` seconds.
    """

    fps: float
    total: int
    numbers: tuple[int, ...]


class Frames(tuple[Image, ...]):
    """The decoded frames of a video in order, in mode RGB."""

    times: FrameTimes

    def __new__(cls, images: Iterable[Image], times: FrameTimes) -> Self:
        frames = super().__new__(cls, images)
        frames.times = times
        return frames

    @property
    def metadata(self) -> dict[str, Any]:
        """Return the times of the frames of ``stack``, with the names that transformers and vLLM use."""
        fps, total, numbers = self.times
        indices = [*numbers] * self._repeats
        total = max(total, len(indices))
        return {"total_num_frames": total, "fps": fps, "duration": total / fps, "frames_indices": indices}

    def stack(self) -> NDArray[np.uint8]:
        """Return the pixels as an array of shape (frames, height, width, 3).

        A single frame is repeated, because processors of the Qwen family refuse a video with one frame.
        """
        return np.stack([np.asarray(frame) for frame in self] * self._repeats)

    @property
    def _repeats(self) -> int:
        return 2 if len(self) == 1 else 1
