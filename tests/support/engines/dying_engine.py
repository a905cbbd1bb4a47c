"""An echo engine that records its requests, and an engine whose worker dies by SIGKILL at a point of a chunk's execution."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from common.ledger.ledger import Ledger
from common.records import Chunk
from common.spec.models import ModelProfile
from workers.engines.base import Generation, Request
from workers.engines.echo import EchoEngine
from workers.execution import chunk

POINTS = ("before_part", "between_part_and_commit", "after_commit")


def claim(path: Path, text: str = "") -> bool:
    """Create a file; return False if it exists already. Exactly one of several simultaneous callers gets True."""
    try:
        with path.open("x") as stream:
            stream.write(text)
    except FileExistsError:
        return False
    return True


def read_options(profile: ModelProfile) -> dict[str, Any]:
    """Return the engine options, including the options in the file that ``Fleet.write_changing_profile`` wrote."""
    options = dict(profile.engine_options)
    if path := options.pop("options_file", None):
        options |= yaml.safe_load(Path(path).read_text())
    return options


class RecordingEngine(EchoEngine):
    """An engine that appends the id of every sample that it receives to the file ``asked``."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options = read_options(profile)
        self._asked = Path(options.pop("asked"))
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def generate(self, request: Request) -> Generation:
        with self._asked.open("a") as stream:
            stream.write(f"{request.request_id}\n")
        return await super().generate(request)


class TurnDyingEngine(RecordingEngine):
    """An engine that dies once, when it receives the ``after``-th request with ``die_at_turn`` turns of the user.

    It writes the id of that request to the file ``died_with``.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options = dict(profile.engine_options)
        self._die_at_turn, self._alive_for = options.pop("die_at_turn"), options.pop("after")
        self._died_with = Path(options.pop("died_with"))
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def generate(self, request: Request) -> Generation:
        if sum(message.role == "user" for message in request.messages) == self._die_at_turn:
            self._alive_for -= 1
            if self._alive_for <= 0 and claim(self._died_with, request.request_id):
                os.kill(os.getpid(), signal.SIGKILL)
        return await super().generate(request)


class DyingEngine(RecordingEngine):
    """An engine that dies once, at the point ``die_at``, after ``after_chunks`` chunks have passed that point.

    It writes the number of the chunk at that point to the file ``died_with``.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options = dict(profile.engine_options)
        self._die_at = options.pop("die_at")
        self._alive_for = options.pop("after_chunks")
        self._died_with = Path(options.pop("died_with"))
        self._lock = threading.Lock()
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def start(self) -> None:
        await super().start()
        if self._die_at == "before_part":
            chunk.write_part = self._die_before(chunk.write_part)
        elif self._die_at == "between_part_and_commit":
            Ledger.commit = self._die_before(Ledger.commit)  # type: ignore[method-assign]  # the fault is injected here
        elif self._die_at == "after_commit":
            Ledger.commit = self._die_after(Ledger.commit)  # type: ignore[method-assign]  # the fault is injected here

    def _die_before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(owner: Any, at: Chunk, *given: Any) -> Any:
            self._die_if_due(at)
            return function(owner, at, *given)

        return wrapped

    def _die_after(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(owner: Any, at: Chunk, *given: Any) -> Any:
            result = function(owner, at, *given)
            self._die_if_due(at)
            return result

        return wrapped

    def _die_if_due(self, at: Chunk) -> None:
        with self._lock:  # two chunks may be at the point at the same time
            self._alive_for -= 1
            if self._alive_for < 0 and claim(self._died_with, str(at.number)):
                os.kill(os.getpid(), signal.SIGKILL)
