"""Echo engines for real workers: an engine with a child process, and engines that fail in different ways."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

from common.errors import ConfigError, EngineError
from common.spec.models import ModelProfile
from tests.support.engines.dying_engine import RecordingEngine, claim
from tests.support.native_threads import start_native_reading
from workers.engines.base import Generation, Request
from workers.engines.echo import EXIT_CODE, EchoEngine
from workers.execution import task
from workers.execution.chunk import run_chunk
from workers.runtime.worker import Worker

BASE_EXCEPTIONS: tuple[type[BaseException], ...] = (SystemExit, KeyboardInterrupt, asyncio.CancelledError, MemoryError)


class ParentEngine(EchoEngine):
    """An engine with a child process, like vLLM. It writes a line with both pids to the file ``notes``."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options = dict(profile.engine_options)
        self._notes = Path(options.pop("notes"))
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def start(self) -> None:
        child = subprocess.Popen(["sleep", "600"])
        note = {"pid": os.getpid(), "child": child.pid, "devices": os.environ["CUDA_VISIBLE_DEVICES"]}
        with self._notes.open("a") as stream:
            stream.write(json.dumps(note) + "\n")
        await super().start()


class MisconfiguredEngine(EchoEngine):
    """An engine that cannot be loaded until the user changes the profile."""

    async def start(self) -> None:
        raise ConfigError("profile wrong: engine_options.depth: expected 1 to 8, found 9")


class DiesOnceEngine(RecordingEngine):
    """An engine that dies at the first question with the word poison: by an ``EngineError`` or, with ``exits``, by an exit."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options = dict(profile.engine_options)
        self._exits = options.pop("exits")
        self._died = Path(options.pop("died"))
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def generate(self, request: Request) -> Generation:
        generation = await super().generate(request)
        if "poison" in request.messages[-1].text and claim(self._died):
            if self._exits:
                os._exit(EXIT_CODE)
            raise EngineError("the GPU does not respond")
        return generation


class RaisingEngine(EchoEngine):
    """An engine that raises the base exception in a question. ``run_chunk`` also raises each base exception ``slots`` times."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options = dict(profile.engine_options)
        slots = options.pop("slots")
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)
        self._to_raise = [error for error in BASE_EXCEPTIONS for _ in range(slots)]

    async def start(self) -> None:
        await super().start()
        setattr(task, "run_chunk", self._run_chunk)  # noqa: B010  # injects the fault; mypy does not accept an assignment

    async def generate(self, request: Request) -> Generation:
        for error in BASE_EXCEPTIONS:
            if error.__name__ in request.messages[-1].text:
                raise error("in the engine")
        return await super().generate(request)

    def _run_chunk(self, worker: Worker, run_id: str, number: int, *, at_once: bool = False) -> str:
        if self._to_raise:
            raise self._to_raise.pop()
        return run_chunk(worker, run_id, number, at_once=at_once)


class NativeThreadsEngine(EchoEngine):
    """An engine that stops while a native thread calls into Python."""

    async def stop(self) -> None:
        await super().stop()
        start_native_reading()
