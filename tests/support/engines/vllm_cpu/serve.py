"""A process with engines for tests. It exits when its standard input is closed.

python -m tests.support.engines.vllm_cpu.serve SOCKET
"""

import asyncio
import sys
import traceback
from asyncio import StreamReader, StreamWriter
from typing import Any

from common.errors import FleetError
from tests.support.engines.vllm_cpu.wire import Call, read_values, write_value
from workers.engines.base import Engine, Request
from workers.engines.registry import load_engine


class Host:
    """Engines by name; they stay loaded after the connection that loaded them is closed."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}

    async def answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Send the results of numbered calls as they finish. A number without a call cancels the call with that number."""
        running: dict[int, asyncio.Task[None]] = {}
        async for number, call in read_values(reader):
            if call is None:
                running[number].cancel()
                continue
            running[number] = asyncio.create_task(self._reply(writer, number, call))
            await asyncio.sleep(0)  # the call starts before it can be cancelled, as in a single process
        for task in running.values():
            task.cancel()
        writer.close()

    async def stop(self) -> None:
        for engine in self._engines.values():
            await engine.stop()

    async def _reply(self, writer: StreamWriter, number: int, call: Call) -> None:
        result: object = None
        error: tuple[type[Exception], tuple[object, ...], dict[str, object]] | None = None
        try:
            result = await self._make(call)
        except FleetError as raised:
            error = (type(raised), raised.args, vars(raised))
        except Exception:  # noqa: BLE001  # the test must fail with the error, not this process
            error = (AssertionError, (traceback.format_exc(),), {})
        write_value(writer, (number, result, error))

    async def _make(self, call: Call) -> object:
        if call.method == "load":
            self._engines[call.engine] = load_engine(*call.arguments)
            return None
        engine: Any = self._engines[call.engine]
        if call.method == "list_tokens":
            return await list_tokens(engine, *call.arguments)
        if call.method == "takes_videos":
            return engine.takes_videos
        return await getattr(engine, call.method)(*call.arguments)


async def list_tokens(engine: Any, request: Request) -> list[int]:
    """Return the tokens of the prompt of a request. The engines hf and vllm report only their number."""
    # The import of these packages takes long, and the socket must exist soon.
    from workers.engines.hf.batching import Waiting
    from workers.engines.hf.engine import HfEngine
    from workers.engines.vllm_rendering import render_request

    tokens: list[int]
    if isinstance(engine, HfEngine):
        model, future = engine._running_model(), asyncio.get_running_loop().create_future()  # noqa: SLF001
        tokens = model.prepare([Waiting(request, model.render(request), future)])["input_ids"][0].tolist()
        return tokens
    tokens = (await render_request(engine._llm, request))["prompt_token_ids"]  # noqa: SLF001
    return tokens


async def serve(path: str) -> None:
    host = Host()
    async with await asyncio.start_unix_server(host.answer, path):
        await asyncio.to_thread(sys.stdin.buffer.read)
    await host.stop()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
