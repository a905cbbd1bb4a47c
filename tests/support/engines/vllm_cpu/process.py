"""The vLLM engine in a separate process. The tests load it once, because loading takes 20 s."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.engines.requests import TINY, make_profile, run
from tests.support.engines.vllm_cpu.environment import OPTIONS, vllm_environment
from tests.support.engines.vllm_cpu.wire import Call, read_values, write_value
from tests.support.fleet import ROOT
from tests.support.waiting import wait_until
from workers.engines.base import Engine, Generation, Request

LOAD_S = 240.0  # deadline for loading on a busy machine
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
        """Return the method's result or raise its exception. A cancelled call is also cancelled in the process."""
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

    async def list_tokens(self, request: Request) -> list[int]:
        """Return the tokens of the prompt."""
        tokens: list[int] = await self._connection.call(self._name, "list_tokens", request)
        return tokens

    async def takes_videos(self) -> bool:
        return bool(await self._connection.call(self._name, "takes_videos"))


class VllmHost:
    """The process and the connections to its engines. All test processes of one pytest run share it.

    The first test process starts the engine process, and the last test process ends it. Each test process keeps the write end of
    the FIFO ``stdin`` in ``folder`` open. The engine process therefore also ends when all test processes are killed. Its log is
    the file ``log`` in ``folder``.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._socket = folder / "socket"
        self._log = folder / "log"
        with self._lock():
            users = self._count_users()
            if not (folder / "stdin").exists():
                os.mkfifo(folder / "stdin")
            self._stdin = os.open(folder / "stdin", os.O_RDWR)  # opening a FIFO only for writing would wait for a reader
            try:
                if not users:
                    self._start()
                    run(self._start_shared(), deadline_s=LOAD_S)
            except BaseException:
                os.close(self._stdin)
                raise
            self._write_users(users + 1)

    def _start(self) -> None:
        # A shell starts it in the background. It must not be a child of this test process, which may end before the others.
        script = '"$@" < "$FOLDER/stdin" > "$FOLDER/log" 2>&1 & echo $! > "$FOLDER/pid"'
        command = ["setsid", sys.executable, "-m", "tests.support.engines.vllm_cpu.serve", str(self._socket)]
        environment = {**os.environ, **vllm_environment(), "FOLDER": str(self._folder)}
        subprocess.run(["sh", "-c", script, "sh", *command], env=environment, cwd=ROOT, check=True)
        wait_until(lambda: self._socket.exists() or not self._is_running(), "the engine's process")
        assert self._is_running(), self._log.read_text(errors="replace")[-6000:]

    def _is_running(self) -> bool:
        try:
            return psutil.Process(self._pid).status() != psutil.STATUS_ZOMBIE  # a container's first process may not reap children
        except psutil.NoSuchProcess:
            return False

    @property
    def _pid(self) -> int:
        return int((self._folder / "pid").read_text())

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _count_users(self) -> int:
        path = self._folder / "users"
        return int(path.read_text()) if path.exists() else 0

    def _write_users(self, count: int) -> None:
        (self._folder / "users").write_text(str(count))

    @asynccontextmanager
    async def load(
        self, options: dict[str, Any] | None = None, name: str | None = None, weights: str = TINY
    ) -> AsyncIterator["RemoteEngine"]:
        """Yield an engine that is loaded and not started. Raise the errors of ``load_engine``."""
        async with self._connect() as connection:
            name = name or f"of {os.getpid()}"  # each test process loads its own engine
            await connection.call(name, "load", make_profile("vllm", {**OPTIONS, **(options or {})}), weights)
            yield RemoteEngine(connection, name)

    @asynccontextmanager
    async def load_hf(self, weights: str, **options: Any) -> AsyncIterator["RemoteEngine"]:
        """Yield an engine of transformers, with the versions of packages that vLLM requires. It is loaded and not started."""
        async with self._connect() as connection:
            name = f"hf of {os.getpid()}"
            await connection.call(name, "load", make_profile("hf", options), weights)
            yield RemoteEngine(connection, name)

    @asynccontextmanager
    async def open_stubbed(self, says: str) -> AsyncIterator[Engine]:
        """Yield our engine over a stub of vLLM (``stubbed.py``); ``says`` names the end of each request."""
        async with self._connect() as connection:
            profile = make_profile("tests.support.engines.vllm_cpu.stubbed:StubbedEngine", {"says": says})
            name = f"stubbed for {os.getpid()}"
            await connection.call(name, "load", profile, "")
            engine = RemoteEngine(connection, name)
            await engine.start()
            try:
                yield engine
            finally:
                await engine.stop()

    @asynccontextmanager
    async def open_shared(self) -> AsyncIterator[RemoteEngine]:
        """Yield the engine that all tests share, and do not stop it."""
        async with self._connect() as connection:
            yield RemoteEngine(connection, _SHARED)

    async def _start_shared(self) -> None:
        async with self.load(name=_SHARED) as engine:
            await engine.start()

    def stop(self) -> None:
        """Release the engine process. The last test process that releases it waits for its end."""
        with self._lock():
            self._write_users(left := self._count_users() - 1)
        os.close(self._stdin)
        if left:
            return
        try:
            wait_until(lambda: not self._is_running(), "the engine's process to end", deadline_s=_STOP_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Connection]:
        connection = Connection(*await asyncio.open_unix_connection(self._socket))
        try:
            yield connection
        finally:
            await connection.close()


@pytest.fixture(scope="session")
def vllm_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmHost]:
    """Yield the host, shared by the processes of pytest-xdist, whose folders lie in one folder."""
    folder = tmp_path_factory.getbasetemp()
    host = VllmHost((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "vllm")
    try:
        yield host
    finally:
        host.stop()
