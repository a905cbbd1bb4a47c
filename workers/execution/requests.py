"""The request of a sample: render it again, compare it with the planned request, and place the decoded images."""

from typing import NamedTuple

from PIL.Image import Image

from common.errors import IntegrityError
from common.prompts.messages import Rendered, digest_request, render_earlier, render_messages
from common.records import Message as PlannedMessage
from common.records import Sample
from common.spec.prompts import PromptSpec
from workers.engines.base import Message
from workers.media.frames import Frames, FrameTimes
from workers.media.loader import Decoded


class Placed(NamedTuple):
    """Messages with indices of images, the images, and the times of the frames of each video by the index of its first frame."""

    messages: tuple[Message, ...]
    images: tuple[Image, ...]
    videos: dict[int, FrameTimes]


def render_request(sample: Sample, prompt: PromptSpec) -> Rendered:
    """Return the messages and media of a sample.

    A sample in a plan of an earlier version does not have a request digest. Its request is rendered as that version rendered it.
    Raises ``IntegrityError`` if the request differs from the planned request, and the errors of ``render_messages``.
    """
    if sample.request_digest is None:
        return render_earlier(sample)
    rendered = render_messages(sample, prompt)
    if (found := digest_request(rendered)) != sample.request_digest:
        raise IntegrityError(
            f"dataset {sample.dataset}, row {sample.index} (sample {sample.sample_id}): this worker renders another request "
            f"({found}) than the plan has ({sample.request_digest}); use workers of the version that planned the run"
        )
    return rendered


def place_images(messages: tuple[PlannedMessage, ...], decoded: Decoded) -> Placed:
    """Return the messages with indices of images in place of indices of media.

    A video has several images, one for each frame.
    """
    spans: list[range] = []
    for images in decoded:
        start = spans[-1].stop if spans else 0
        spans.append(range(start, start + len(images)))
    placed = tuple(Message(message.role, _expand(message.content, spans)) for message in messages)
    videos = {span.start: images.times for span, images in zip(spans, decoded, strict=True) if isinstance(images, Frames)}
    return Placed(placed, tuple(image for images in decoded for image in images), videos)


def _expand(content: tuple[str | int, ...], spans: list[range]) -> tuple[str | int, ...]:
    parts: list[str | int] = []
    for part in content:
        parts += [part] if isinstance(part, str) else spans[part]
    return tuple(parts)
