"""The engine interface: requests, generations and the ``Engine`` protocol."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL.Image import Image

from common.records import FinishReason
from common.spec.models import SamplingParams
from workers.media.frames import Frames, FrameTimes


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. ``content`` lists texts and images in order. A number in it is an index of ``Request.images``."""

    role: str
    content: tuple[str | int, ...]

    @property
    def text(self) -> str:
        """Return the text without the images."""
        return "".join(part for part in self.content if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class Request:
    """One request for a generation: a conversation, its RGB images and the sampling parameters.

    Messages may show an image several times. The frames of a video are consecutive images. ``videos`` holds the times of the
    frames of each video that the engine must send through the model's own video input, by the index of its first frame. It is
    empty if the engine does not take videos, or must send their frames as images.
    ``request_id`` is unique among the requests in flight. ``attempt`` is the attempt number, from 1.
    ``template_options`` are passed to the model's chat template, for example ``enable_thinking``.
    """

    request_id: str
    messages: tuple[Message, ...]
    images: tuple[Image, ...]
    settings: SamplingParams
    attempt: int = 1
    template_options: Mapping[str, Any] = field(default_factory=dict)
    videos: Mapping[int, FrameTimes] = field(default_factory=dict)

    def list_parts(self, message: Message) -> list[str | Image | Frames]:
        """Return the texts, images and videos of a message in order."""
        parts: list[str | Image | Frames] = []
        frames_left = 0
        for part in message.content:
            if frames_left:
                frames_left -= 1
            elif isinstance(part, str):
                parts.append(part)
            elif times := self.videos.get(part):
                parts.append(Frames(self.images[part : part + len(times.numbers)], times))
                frames_left = len(times.numbers) - 1
            else:
                parts.append(self.images[part])
        return parts

    @property
    def shown_videos(self) -> list[Frames]:
        """Return the videos of ``videos`` in the order of the messages."""
        return [part for message in self.messages for part in self.list_parts(message) if isinstance(part, Frames)]

    @property
    def shown_images(self) -> list[Image]:
        """Return the images in the order of the messages, without the frames of ``shown_videos``."""
        return [part for message in self.messages for part in self.list_parts(message) if isinstance(part, Image)]

    @property
    def shown(self) -> list[Image]:
        """Return all images and frames in the order of the messages. An image that the messages show twice is listed twice."""
        return [self.images[part] for message in self.messages for part in message.content if isinstance(part, int)]


@dataclass(frozen=True, slots=True)
class Generation:
    """The result of one request: the raw text without the prompt, and the finish reason.

    ``prompt_tokens`` and ``output_tokens`` are ``None`` if the engine does not report them.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None = None
    output_tokens: int | None = None


def is_task_cancelled() -> bool:
    """Return whether the current task itself was cancelled, and not only a task or future that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Engine(Protocol):
    """An engine loads its model once, then serves any number of concurrent requests.

    All calls of ``generate`` come from one event loop. A call may start before earlier calls return: the engine batches
    the pending requests. ``generate`` raises ``SampleError`` (including ``OutOfMemory``) if the request is at fault,
    and ``EngineError`` if the engine is no longer usable. An engine that calls a remote service may also raise
    ``TransientError`` (the service is unavailable or rate-limited for a long time: the chunk is retried later) and
    ``ConfigError`` (the user must act first: the run pauses).

    An engine finds the context of its model (``context.py``). Before the model runs, the engine refuses a prompt that fills the
    context (``too_long``). An answer that reaches the end of the context has the finish reason ``length``. The engine renders and
    tokenizes long texts outside the event loop, a few at a time.

    An engine whose model has a video input of its own sets the attribute ``takes_videos`` to true when it starts. It then gets
    ``Request.videos``.
    """

    async def start(self) -> None:
        """Load the model.

        Raises ``ConfigError`` for invalid options, ``EngineError`` if the machine cannot run the model.
        """

    async def generate(self, request: Request) -> Generation:
        """Return one generation for the request. The class docstring lists the errors."""

    async def stop(self) -> None:
        """Release the accelerator. Requests in flight may fail."""
