"""What every engine takes, gives and promises."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL.Image import Image

from common.records import FinishReason
from common.spec.models import SamplingParams


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.  ``images`` counts the images that stand before its text, taken from the request's in order."""

    role: str
    text: str
    images: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One generation to make: a conversation, its images (RGB) and how to sample.

    ``request_id`` is unique among the requests in flight; ``attempt`` counts from 1.  ``template_options`` go to the
    model's chat template (``enable_thinking`` and the like).
    """

    request_id: str
    messages: tuple[Message, ...]
    images: tuple[Image, ...]
    settings: SamplingParams
    attempt: int = 1
    template_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Generation:
    """What came out: the raw text without the prompt, why it ended, and token counts where the engine knows them."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None = None
    output_tokens: int | None = None


class Engine(Protocol):
    """Loads once, then answers any number of requests at once.

    ``generate`` is called from one event loop and may be called before earlier calls returned: the engine batches
    whatever is waiting.  It raises ``SampleError`` (``OutOfMemory`` among them) for a request at fault, and
    ``EngineError`` when the engine itself is no longer usable.  An engine that asks others may also raise
    ``TransientError`` (away or limited for long: the chunk is tried later) and ``ConfigError`` (the user must act
    first: the run pauses).
    """

    async def start(self) -> None:
        """Load the model.  Raises ``ConfigError`` for wrong options, ``EngineError`` when the machine cannot run it."""

    async def generate(self, request: Request) -> Generation:
        """Return one generation for the request."""

    async def stop(self) -> None:
        """Give the accelerator back.  Requests in flight may fail."""
