"""An echo engine that stalls in several ways, and an engine that is only slow."""

import asyncio
import ctypes
import time
from pathlib import Path
from typing import Any, Literal

from common.spec.models import ModelProfile
from tests.support.engines.dying_engine import RecordingEngine, claim
from workers.engines.base import Generation, Request

Stall = Literal["unresponsive", "blocked", "locked"]
STALL_S = 3600


class StallingEngine(RecordingEngine):
    """An engine that stops answering after ``answers`` answers, once in a fleet; the file ``stalled`` records the stall.

    - ``unresponsive``: the event loop continues.
    - ``blocked``: synchronous code blocks the loop.
    - ``locked``: native code holds the interpreter's lock. All threads of the worker stop, including its heartbeat.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options: dict[str, Any] = dict(profile.engine_options)
        self._how: Stall = options.pop("how")
        self._answers: int = options.pop("answers")
        self._stalled = Path(options.pop("stalled"))
        self._is_unresponsive = False
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def generate(self, request: Request) -> Generation:
        generation = await super().generate(request)
        self._answers -= 1
        if self._answers < 0 and claim(self._stalled):
            self._is_unresponsive = True
            if self._how == "blocked":
                time.sleep(STALL_S)  # the fault
            elif self._how == "locked":
                ctypes.PyDLL(None).sleep(STALL_S)
        if self._is_unresponsive:
            await asyncio.get_running_loop().create_future()
        return generation


class SlowEngine(RecordingEngine):
    """An engine that answers one question at a time, so that most questions wait although it answers regularly."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        super().__init__(profile, weights)
        self._turn = asyncio.Lock()

    async def generate(self, request: Request) -> Generation:
        async with self._turn:
            return await super().generate(request)
