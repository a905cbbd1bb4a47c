"""An engine whose answers come from its child process over a pipe, as with vLLM's core: either process can die separately."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any, NamedTuple

from common.deaths import classify_exit
from common.errors import EngineError
from common.spec.models import ModelProfile
from tests.support.fleet import Fleet
from workers.engines.base import Generation, Request

# The child answers in sequence, so most requests wait in the pipe under load. It does not exit with its parent.
_CHILD = """
import contextlib, json, sys, time
with contextlib.suppress(BrokenPipeError):
    for line in sys.stdin:
        time.sleep(float(sys.argv[1]))
        print(json.dumps({"id": json.loads(line)["id"], "text": "ok"}), flush=True)
time.sleep(600)
"""


class Note(NamedTuple):
    """One start of the engine: the process ids of its worker and of its child."""

    worker: int
    child: int


class ChildEngine:
    """An engine that answers "ok" after ``delay_s``. It records requests in the file ``asked`` and starts in ``started``."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        del weights
        options: dict[str, Any] = profile.engine_options
        self._asked = Path(options["asked"])
        self._started = Path(options["started"])
        self._delay_s = float(options["delay_s"])
        self._answers: dict[str, asyncio.Future[str]] = {}
        self._gone = False

    async def start(self) -> None:
        arguments = (sys.executable, "-I", "-S", "-c", _CHILD, str(self._delay_s))
        self._child = await asyncio.create_subprocess_exec(*arguments, stdin=PIPE, stdout=PIPE)
        self._listening = asyncio.create_task(self._listen(self._child))
        with self._started.open("a") as stream:
            stream.write(f"{os.getpid()} {self._child.pid}\n")

    async def generate(self, request: Request) -> Generation:
        if self._gone or self._child.stdin is None:
            raise EngineError("the engine's process has exited", cause=classify_exit(await self._child.wait(), out_of_memory=False))
        with self._asked.open("a") as stream:
            stream.write(f"{request.request_id}\n")
        answer = self._answers[request.request_id] = asyncio.get_running_loop().create_future()
        self._child.stdin.write(json.dumps({"id": request.request_id}).encode() + b"\n")
        return Generation(await answer, "stop", 1, 1)

    async def stop(self) -> None:
        self._child.kill()
        await self._child.wait()
        await self._listening

    async def _listen(self, child: Process) -> None:
        assert child.stdout is not None
        try:
            async for line in child.stdout:
                answered = json.loads(line)
                answer = self._answers.pop(answered["id"])
                if not answer.done():
                    answer.set_result(answered["text"])
        finally:  # after the end of the pipe, waiting requests fail
            self._gone = True
            cause = classify_exit(await child.wait(), out_of_memory=False)
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(EngineError(f"the engine's process {child.pid} has exited", cause=cause))


def write_child_profile(fleet: Fleet, name: str, *, delay_s: float) -> None:
    options = {"asked": str(fleet.folder / "asked"), "started": str(fleet.folder / "started"), "delay_s": delay_s}
    fleet.write_profile(name, engine="tests.support.engines.child_engine:ChildEngine", engine_options=options)


def read_starts(fleet: Fleet) -> list[Note]:
    path = fleet.folder / "started"
    lines = path.read_text().splitlines() if path.exists() else []
    return [Note(*map(int, line.split())) for line in lines]
