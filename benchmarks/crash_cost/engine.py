"""An echo engine with a load time, a latency and a child process. Chosen questions make it crash or hang."""

import asyncio
import os
import signal
import subprocess
from typing import Any

from common.deaths import classify_exit
from common.errors import EngineError
from common.spec.models import ModelProfile
from workers.engines.base import Generation, Request
from workers.engines.echo import EchoEngine

POISON_BYTES = 4 * 2**30


class FragileEngine(EchoEngine):
    """An engine that crashes or hangs ``after_s`` seconds after it received a poison question.

    ``ends`` maps the first word of a poison question to a failure: ``crash`` (SIGSEGV of this process), ``kill`` (SIGKILL),
    ``memory`` (the engine allocates more than its control group allows) or ``hang``. Like vLLM, the engine has a child process,
    and the engine dies when the child exits.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options: dict[str, Any] = dict(profile.engine_options)
        self._ends: dict[str, str] = options.pop("ends")
        self._after_s = float(options.pop("after_s"))
        self._hangs = False
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def start(self) -> None:
        self._child = subprocess.Popen(["sleep", "86400"])  # noqa: S607  # found on PATH
        await super().start()

    async def generate(self, request: Request) -> Generation:
        word = request.messages[-1].text.split()[0]
        if way := self._ends.get(word):
            asyncio.get_running_loop().call_later(self._after_s, self._end, way)
        generation = await super().generate(request)
        if self._hangs:
            await asyncio.get_running_loop().create_future()
        if (code := self._child.poll()) is not None:
            raise EngineError("the engine's child process has exited", cause=classify_exit(code, out_of_memory=False))
        return generation

    async def stop(self) -> None:
        await super().stop()
        self._child.kill()
        self._child.wait()

    def _end(self, way: str) -> None:
        if way == "hang":
            self._hangs = True
        elif way == "memory":
            self._ballast = b"x" * POISON_BYTES
        else:
            os.kill(os.getpid(), signal.SIGSEGV if way == "crash" else signal.SIGKILL)
