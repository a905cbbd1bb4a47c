"""Render requests with the chat template of a transformers processor."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from PIL.Image import Image

from common.errors import SampleError
from workers.engines.base import Request
from workers.media.frames import Frames

_PROBE = "vlm fleet probe"  # a text that chat templates do not contain


class ChatTemplate:
    """The chat template of a processor. ``takes_videos`` states whether the processor and the template take videos."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._takes_parts = self._takes_list()
        self.takes_videos = self._takes_parts and getattr(processor, "video_processor", None) is not None and self._shows_video()

    def render(self, request: Request) -> str:
        """Return the rendered prompt.

        Raises ``SampleError`` (``engine_rejected``) if the template fails, or if the prompt does not have one placeholder for each
        image and for each video.
        """
        try:
            conversation = [
                {"role": message.role, "content": self._write_content(request.list_parts(message))} for message in request.messages
            ]
            text = self._apply(conversation, **request.template_options)
        except Exception as error:  # a chat template is third-party code and may raise any error
            raise SampleError("engine_rejected", f"the model's chat template rejected the conversation: {error}") from error
        self._check_placeholders(text, "image", len(request.shown_images))
        if request.videos:
            self._check_placeholders(text, "video", len(request.shown_videos))
        return text

    def _apply(self, conversation: list[dict[str, Any]], **options: Any) -> str:
        text: str = self._processor.apply_chat_template(conversation, add_generation_prompt=True, **options)
        return text

    def _check_placeholders(self, text: str, kind: str, expected: int) -> None:
        placeholder = getattr(self._processor, f"{kind}_token", None)
        if placeholder and (found := text.count(placeholder)) != expected:
            counts = f"has the {kind} placeholder {placeholder!r} {found} times; expected {expected}, one for each {kind}"
            raise SampleError("engine_rejected", f"the prompt {counts}; remove the placeholder from the question")

    def _write_content(self, parts: Sequence[str | Image | Frames]) -> str | list[dict[str, str]]:
        if self._takes_parts:
            return [*map(_write_part, parts)]
        # vLLM joins the parts in the same way for templates that take only a text, so both engines send the same prompt.
        return "\n".join(part if isinstance(part, str) else self._processor.image_token for part in parts)

    def _takes_list(self) -> bool:
        """Return whether the chat template takes a list of texts and images. Some templates take only a text."""
        for content in ([{"type": "text", "text": _PROBE}], _PROBE):
            with suppress(Exception):  # as above
                text = self._apply([{"role": "user", "content": content}])
                if _PROBE in text and "'type'" not in text:
                    return isinstance(content, list)
        return True  # the template has further requirements; each request reports them as an error

    def _shows_video(self) -> bool:
        """Return whether the chat template writes a placeholder for a video."""
        with suppress(Exception):  # as above
            text = self._apply([{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": _PROBE}]}])
            return text.count(self._processor.video_token) == 1
        return False


def _write_part(part: str | Image | Frames) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "video" if isinstance(part, Frames) else "image"}
