"""The chat-completions format: write the body of a request, read the generation from the body of a response. No I/O."""

import base64
import json
from io import BytesIO
from typing import Any

from PIL.Image import Image
from pydantic import BaseModel, ValidationError

from common.errors import SampleError
from common.records import FinishReason
from workers.engines.base import Generation, Message, Request
from workers.engines.openai.errors import classify_empty, quote
from workers.engines.openai.options import OpenAIOptions

# OpenAI's names, and the names that gateways pass through. A missing reason counts as stop.
_FINISH_REASONS: dict[str, FinishReason] = {
    "": "stop", "stop": "stop", "eos": "stop", "end_turn": "stop", "tool_calls": "stop", "function_call": "stop",
    "length": "length", "max_tokens": "length",
}  # fmt: skip
# OpenAI's name, and the names that Google's endpoint passes through.
_FILTERED = frozenset({"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii"})


def write_body(request: Request, model: str, options: OpenAIOptions) -> bytes:
    """Return the JSON to send, with images. Large images take long to encode, so do not call this in the event loop."""
    settings = request.settings
    body: dict[str, Any] = {
        "model": model,
        "messages": _write_messages(request, options),
        options.max_tokens_field: settings.max_tokens,
        # Sent even if they are defaults, because servers have their own defaults for each model.
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
    """Return the generation in the body of a response with a 2xx status.

    Raises ``EndpointError`` if the generation is missing, and ``SampleError`` if a filter withheld or cut it
    (``content_filter``) or the model declined to answer in the field ``refusal`` (``refused``).
    """
    try:
        answer = _Answer.model_validate_json(content)
    except ValidationError:
        raise classify_empty(content) from None
    if not answer.choices:
        raise classify_empty(content)
    choice = answer.choices[0]
    reason = (choice.finish_reason or "").lower()
    if choice.message is None and not reason:
        raise classify_empty(content)
    message = choice.message or _Message()  # Gemini omits it if a filter or max_tokens removed all text
    text = _read_text(message.content)
    if reason in _FILTERED:  # a text that the filter cut is not an answer
        raise SampleError("content_filter", f"the endpoint's filter withheld the answer ({reason})")
    if not text and message.refusal:
        raise SampleError("refused", f"the model declined to answer: {quote(message.refusal)}")
    if reason not in _FINISH_REASONS:
        raise classify_empty(content)
    usage = answer.usage or _Usage()
    return Generation(text, _FINISH_REASONS[reason], usage.prompt_tokens, usage.completion_tokens)


def read_context(content: bytes, model: str) -> int | None:
    """Return the context of a model in tokens from the body of ``GET /models``, or ``None`` if the body does not state it."""
    try:
        models = _Models.model_validate_json(content).data
    except ValidationError:
        return None
    found = next((one for one in models if one.id == model), None)
    return found.max_model_len or found.context_length or found.context_window if found else None


class _Model(BaseModel):
    """One entry of the list of models. The fields are the context's names in vLLM and SGLang, OpenRouter, and Groq."""

    id: str
    max_model_len: int | None = None
    context_length: int | None = None
    context_window: int | None = None


class _Models(BaseModel):
    data: list[_Model]


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
    """The fields of a chat completion that the engine reads. Gateways omit many other fields."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None


def _read_text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content)
    return content or ""


def _write_messages(request: Request, options: OpenAIOptions) -> list[dict[str, Any]]:
    shown = {part for message in request.messages for part in message.content if isinstance(part, int)}
    urls = {part: write_data_url(request.images[part], options) for part in shown}

    def write_part(part: str | int) -> dict[str, Any]:
        return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image_url", "image_url": {"url": urls[part]}}

    def write_content(message: Message) -> str | list[dict[str, Any]]:
        # Plain text for a message without images, because servers of text models accept only plain text.
        has_images = any(isinstance(part, int) for part in message.content)
        return [*map(write_part, message.content)] if has_images else message.text

    return [{"role": message.role, "content": write_content(message)} for message in request.messages]


def write_data_url(image: Image, options: OpenAIOptions) -> str:
    """Return an image (RGB) as a data URL: PNG, which keeps every pixel, or JPEG if ``image_format`` is ``jpeg``."""
    stream = BytesIO()
    if options.image_format == "png":
        image.save(stream, "PNG", compress_level=1)  # each higher level takes more time than it saves in transfer
    else:
        image.save(stream, "JPEG", quality=options.jpeg_quality, subsampling=0)
    return f"data:image/{options.image_format};base64,{base64.b64encode(stream.getvalue()).decode()}"
