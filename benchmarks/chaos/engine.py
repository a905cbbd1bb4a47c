"""An engine for the chaos soak. It wraps another engine, has a child process that can be killed, and records all requests."""

import asyncio
import os
import subprocess
from collections import Counter
from pathlib import Path

from common.deaths import classify_exit
from common.errors import EngineError
from common.spec.models import ModelProfile
from workers.engines.base import Engine, Generation, Request
from workers.engines.registry import load_engine


class ChaosEngine:
    """Runs the engine that ``engine_options`` names: ``{runs, options, asked, at_once}``.

    At most ``at_once`` requests are in that engine at the same time. Before a request starts, a line "sample_id attempt" is
    written to this process's file in the folder ``asked``. As with vLLM, the engine counts as dead once its child process exits.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        chosen = profile.engine_options
        self._engine: Engine = load_engine(
            profile.model_copy(update={"engine": chosen["runs"], "engine_options": chosen["options"]}), weights
        )
        self._places = asyncio.Semaphore(chosen["at_once"])
        self._asked = os.open(Path(chosen["asked"]) / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._child: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._child = subprocess.Popen(["sleep", "86400"])  # noqa: S607  # found on PATH
        await self._engine.start()

    async def generate(self, request: Request) -> Generation:
        async with self._places:
            self._check_child()
            os.write(self._asked, f"{request.request_id} {request.attempt}\n".encode())
            generation = await self._engine.generate(request)
            self._check_child()
            return generation

    async def stop(self) -> None:
        await self._engine.stop()
        if self._child:
            self._child.kill()
            self._child.wait()
        os.close(self._asked)

    def _check_child(self) -> None:
        code = self._child.poll() if self._child else 1
        if code is not None:
            raise EngineError("the engine's child process has exited", cause=classify_exit(code, out_of_memory=False))


def count_asked(folder: Path) -> tuple[int, int]:
    """Return the number of recorded attempts, and the number of attempts that repeat an earlier one."""
    asked: Counter[str] = Counter()
    for notes in folder.iterdir():
        asked.update(notes.read_text().splitlines())
    return asked.total(), asked.total() - len(asked)
