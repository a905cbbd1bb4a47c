"""The chat-completions format: a request into the body that is sent, the body that comes back into a generation.  Pure."""

import base64
import json
from io import BytesIO
from typing import Any

from PIL.Image import Image
from pydantic import BaseModel, ValidationError

from common.errors import SampleError
from common.records import FinishReason
from workers.engines.base import Generation, Request
from workers.engines.openai.errors import quote, sort_empty
from workers.engines.openai.options import OpenAIOptions

# OpenAI's names and those that gateways pass on.  No reason at all counts as stop.
_FINISH_REASONS: dict[str, FinishReason] = {
    "": "stop", "stop": "stop", "eos": "stop", "end_turn": "stop", "tool_calls": "stop", "function_call": "stop",
    "length": "length", "max_tokens": "length",
}  # fmt: skip
# OpenAI's name, and Google's, which its own endpoint passes on as they are.
_FILTERED = frozenset({"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii"})


def write_body(request: Request, model: str, options: OpenAIOptions) -> bytes:
    """Return the JSON to send, images and all.  Slow for large images: not for the event loop."""
    settings = request.settings
    body: dict[str, Any] = {
        "model": model,
        "messages": _write_messages(request, options),
        options.max_tokens_field: settings.max_tokens,
        # Said even where it is the default: servers have defaults of their own for each model.
        "temperature": settings.temperature,
        "top_p": settings.top_p,
    }
    if settings.seed is not None:
        body["seed"] = settings.seed
    if settings.stop:
        body["stop"] = list(settings.stop)
    for name in options.leave_out:
        body.pop(name, None)
    body |= options.extra_body
    if request.template_options:
        body["chat_template_kwargs"] = {**body.get("chat_template_kwargs", {}), **request.template_options}
    return json.dumps(body).encode()


def read_generation(content: bytes) -> Generation:
    """Return the generation that the body of a successful answer holds.

    Raises ``EndpointFault`` if there is none in it, and ``SampleError`` when a filter withheld or cut it (``content_filter``) or
    the model declined in the field that is meant for it (``refused``).
    """
    try:
        answer = _Answer.model_validate_json(content)
    except ValidationError:
        raise sort_empty(content) from None
    if not answer.choices:
        raise sort_empty(content)
    choice = answer.choices[0]
    reason = (choice.finish_reason or "").lower()
    if choice.message is None and not reason:
        raise sort_empty(content)
    message = choice.message or _Message()  # Gemini leaves it out when a filter or max_tokens left nothing to put there
    text = _read_text(message.content)
    if reason in _FILTERED:  # what it left of the text is no answer either
        raise SampleError("content_filter", f"the endpoint's filter withheld the answer ({reason})")
    if not text and message.refusal:
        raise SampleError("refused", f"the model declined to answer: {quote(message.refusal)}")
    if reason not in _FINISH_REASONS:
        raise sort_empty(content)
    usage = answer.usage or _Usage()
    return Generation(text, _FINISH_REASONS[reason], usage.prompt_tokens, usage.completion_tokens)


class _Message(BaseModel):
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message | None = None
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Answer(BaseModel):
    """As much of a chat completion as we read; gateways leave out much of the rest."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None


def _read_text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content)
    return content or ""


def _write_messages(request: Request, options: OpenAIOptions) -> list[dict[str, Any]]:
    images = iter(request.images)
    messages = []
    for message in request.messages:
        shown = [{"type": "image_url", "image_url": {"url": write_data_url(next(images), options)}} for _ in range(message.images)]
        # Plain text where there is no image: servers of text models know nothing else.
        content = [*shown, {"type": "text", "text": message.text}] if shown else message.text
        messages.append({"role": message.role, "content": content})
    return messages


def write_data_url(image: Image, options: OpenAIOptions) -> str:
    """Return an image (RGB) as a data URL: PNG, so that the model sees the very pixels, or JPEG if the options say so."""
    stream = BytesIO()
    if options.image_format == "png":
        image.save(stream, "PNG", compress_level=1)  # of the higher levels each costs more time than it saves on the line
    else:
        image.save(stream, "JPEG", quality=options.jpeg_quality, subsampling=0)
    return f"data:image/{options.image_format};base64,{base64.b64encode(stream.getvalue()).decode()}"
