"""Render requests for vLLM: the chat template, the tokens, and the images and videos for the model's processor."""

import asyncio
from dataclasses import replace
from typing import Any

from PIL.Image import Image
from vllm.renderers import ChatParams
from vllm.v1.engine.async_llm import AsyncLLM

from workers.engines.base import Request
from workers.media.frames import Frames

# A video without an address. vLLM accepts it because of the uuid, which ``render_request`` removes.
_VIDEO_PLACE = {"type": "video_url", "video_url": None, "uuid": "video"}


async def render_request(llm: AsyncLLM, request: Request) -> Any:
    """Return the prompt in the format of vLLM's engine: tokens, and images and videos processed by the model's processor.

    The work runs on vLLM's threads. vLLM's length check is off, because it stops counting at the end of the context.
    """
    template = ChatParams(chat_template_kwargs={"add_generation_prompt": True, **request.template_options})
    tokens = replace(llm.renderer.default_chat_tok_params, max_total_tokens=None)
    if not request.videos:
        _, (prompt,) = await llm.renderer.render_chat_async([_to_conversation(request)], template, tokens)
        return prompt
    # A conversation in vLLM's format has only addresses of videos. Add the decoded frames to the result of the chat template.
    conversation, videos = _to_conversation(request), request.shown_videos
    _, text_prompt = await llm.renderer.render_messages_async(conversation, template)
    rendered: Any = text_prompt
    rendered["multi_modal_data"]["video"] = await asyncio.to_thread(lambda: [*map(_to_video, videos)])
    rendered["multi_modal_uuids"]["video"] = [None] * len(videos)
    (prompt,) = await llm.renderer.render_cmpl_async([rendered], tokens)
    return prompt


async def takes_videos(llm: AsyncLLM) -> bool:
    """Return whether the model has a video input, the options allow a video, and the chat template has a place for it."""
    processor = llm.renderer.mm_processor
    if processor is None or not processor.info.allowed_mm_limits.get("video"):
        return False
    prompts = []
    for parts in ([], [_VIDEO_PLACE]):
        conversation: list[Any] = [{"role": "user", "content": [*parts, {"type": "text", "text": "What is shown?"}]}]
        _, prompt = await llm.renderer.render_messages_async(conversation, ChatParams())
        prompts.append(prompt.get("prompt") or prompt.get("prompt_token_ids"))
    return bool(prompts[0] != prompts[1])


def _to_conversation(request: Request) -> list[Any]:
    """Return the conversation in vLLM's chat format, with texts, images and places of videos in order."""

    def write_part(part: str | Image | Frames) -> dict[str, Any]:
        if isinstance(part, Frames):
            return _VIDEO_PLACE
        return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image_pil", "image_pil": part}

    return [{"role": message.role, "content": [*map(write_part, request.list_parts(message))]} for message in request.messages]


def _to_video(video: Frames) -> tuple[Any, dict[str, Any]]:
    return video.stack(), {**video.metadata, "do_sample_frames": False}
