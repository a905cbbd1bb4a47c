"""The vLLM engine in a separate process, for the tests: it is loaded once, because loading takes 20 s."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines.requests import TINY, make_profile, run
from tests.support.engines.vllm_cpu.environment import OPTIONS, vllm_environment
from tests.support.engines.vllm_cpu.wire import Call, read_values, write_value
from tests.support.fleet import ROOT
from tests.support.waiting import wait_until
from workers.engines.base import Engine, Generation, Request

LOAD_S = 240.0  # a deadline for loading on a busy machine
_SHARED = "shared"
_STOP_S = 30.0


class Connection:
    """One test's connection to the process, on the test's own event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._listening = asyncio.create_task(self._listen(reader))

    async def call(self, engine: str, method: str, *arguments: Any) -> Any:
        """Return the method's result or raise its exception; cancelling the call cancels it in the process as well."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        write_value(self._writer, (number, Call(engine, method, arguments)))
        try:
            result, error = await answer
        except asyncio.CancelledError:
            write_value(self._writer, (number, None))
            raise
        if error is not None:
            kind, values, fields = error
            raised = kind.__new__(kind, *values)
            vars(raised).update(fields)
            raise raised
        return result

    async def close(self) -> None:
        self._writer.close()
        await self._listening

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        async for number, result, error in read_values(reader):
            answer = self._waiting.pop(number)
            if not answer.done():
                answer.set_result((result, error))
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(AssertionError("the process that holds the engine has ended"))


class RemoteEngine:
    """A proxy for an engine in the process."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    async def start(self) -> None:
        await self._connection.call(self._name, "start")

    async def generate(self, request: Request) -> Generation:
        generation: Generation = await self._connection.call(self._name, "generate", request)
        return generation

    async def stop(self) -> None:
        await self._connection.call(self._name, "stop")


class VllmHost:
    """The process and access to its engines.  Its log is the file ``log`` in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "socket"
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.engines.vllm_cpu.serve", str(self._socket)],
                env={**os.environ, **vllm_environment()}, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        wait_until(lambda: self._socket.exists() or self._process.poll() is not None, "the engine's process")
        assert self._process.poll() is None, self._log.read_text(errors="replace")[-6000:]

    @asynccontextmanager
    async def load(self, options: dict[str, Any] | None = None, name: str = "own") -> AsyncIterator[Engine]:
        """Yield an engine that is loaded and not started.  Raises the errors of ``load_engine``."""
        async with self._connect() as connection:
            await connection.call(name, "load", make_profile("vllm", {**OPTIONS, **(options or {})}), TINY)
            yield RemoteEngine(connection, name)

    @asynccontextmanager
    async def open_stubbed(self, says: str) -> AsyncIterator[Engine]:
        """Yield our engine over a stub of vLLM (``stubbed.py``); ``says`` is the end of each request."""
        async with self._connect() as connection:
            profile = make_profile("tests.support.engines.vllm_cpu.stubbed:StubbedEngine", {"says": says})
            await connection.call("stubbed", "load", profile, "")
            engine = RemoteEngine(connection, "stubbed")
            await engine.start()
            try:
                yield engine
            finally:
                await engine.stop()

    @asynccontextmanager
    async def open_shared(self) -> AsyncIterator[Engine]:
        """Yield the engine that all tests share, and do not stop it."""
        async with self._connect() as connection:
            yield RemoteEngine(connection, _SHARED)

    async def start_shared(self) -> None:
        async with self.load(name=_SHARED) as engine:
            await engine.start()

    def stop(self) -> None:
        """End the process and every process that it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            assert self._process.wait(_STOP_S) == 0, self._log.read_text(errors="replace")[-6000:]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Connection]:
        connection = Connection(*await asyncio.open_unix_connection(self._socket))
        try:
            yield connection
        finally:
            await connection.close()


@pytest.fixture(scope="session")
def vllm_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmHost]:
    host = VllmHost(tmp_path_factory.mktemp("vllm"))
    try:
        run(host.start_shared(), deadline_s=LOAD_S)
        yield host
    finally:
        host.stop()
