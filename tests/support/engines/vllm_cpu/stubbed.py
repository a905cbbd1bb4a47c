"""Our vLLM engine over a stub of ``AsyncLLM``, for errors that real vLLM raises only in rare cases. All types are vLLM's own."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from vllm.outputs import CompletionOutput, RequestOutput
from vllm.renderers import TokenizeParams
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from common.spec.models import ModelProfile
from workers.engines.vllm import VllmEngine


def wrap(error: Exception | None) -> Exception:
    """Return an exception as ``AsyncLLM.generate`` wraps it."""
    wrapped: Exception = EngineGenerateError()
    wrapped.__cause__ = error
    return wrapped


FAULTS: dict[str, BaseException] = {
    "a fault": ValueError("the prompt is too long"),
    "a wrapped fault": wrap(ValueError("the prompt is too long")),
    "a fault wrapped twice": wrap(wrap(ValueError("the prompt is too long"))),
    "a wrapper without a cause": wrap(None),
    "no memory": MemoryError("no room"),
    "a wrapped memory error": wrap(MemoryError("no room")),
    "death": EngineDeadError(),
    "wrapped death": wrap(EngineDeadError()),
    "cancelled by vLLM": asyncio.CancelledError(),
}


class StubbedLlm:
    """A stub that ends each request with the fault ``says`` of ``FAULTS``, or with ``says`` as finish reason and some tokens.

    ``says`` can be several finish reasons, separated by commas. Then each request gets the next reason.
    """

    errored = False
    engine_core = SimpleNamespace(resources=SimpleNamespace(engine_manager=None))
    model_config = SimpleNamespace(max_model_len=9)

    def __init__(self, says: str) -> None:
        self._says = says.split(", ")
        tokens = TokenizeParams(self.model_config.max_model_len)
        self.renderer = SimpleNamespace(render_chat_async=self._render, get_tokenizer=lambda: self, default_chat_tok_params=tokens)

    async def generate(self, prompt: object, settings: object, request_id: str) -> AsyncIterator[RequestOutput]:
        del prompt, settings
        says = self._says.pop(0) if len(self._says) > 1 else self._says[0]
        if fault := FAULTS.get(says):
            raise fault
        completion = CompletionOutput(0, "", [5, 6, 7], None, None, finish_reason=says)
        yield RequestOutput(request_id, None, [1, 2], None, [completion], finished=True)

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "half an ans"[: len(tokens) * 4]

    async def reset_mm_cache(self) -> None:
        """Do nothing, because the stub does not have a cache."""

    def shutdown(self) -> None:
        """Do nothing, because the stub does not have a process."""

    async def _render(self, *_: object) -> tuple[None, list[object]]:
        return None, [{"prompt_token_ids": [1, 2]}]


class StubbedEngine(VllmEngine):
    """Our engine over the stub, with the only option ``says``."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        super().__init__(profile.model_copy(update={"engine_options": {}}), weights)
        self._says = str(profile.engine_options["says"])

    async def start(self) -> None:
        stub: Any = StubbedLlm(self._says)
        self._llm = stub
