"""Code that the proxies of the tests share: an asyncio server in a separate thread, and the copying of a connection's bytes."""

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def serve_in_thread(handle: Handle, name: str, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Run ``handle`` for every connection, on an event loop in a thread called ``name``; yield the port on 127.0.0.1."""
    loop = asyncio.new_event_loop()
    # Clients break connections on purpose, for example because they refuse a certificate.
    loop.set_exception_handler(lambda *_: None)
    thread = threading.Thread(target=loop.run_forever, name=name)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls), loop).result()
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            asyncio.run_coroutine_threadsafe(_close(server), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def copy_stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_stalled: Callable[[], bool] = lambda: False
) -> None:
    """Copy until one side closes its connection, then close the other; drop bytes that arrive while ``is_stalled``."""
    try:
        while content := await reader.read(65536):
            if not is_stalled():
                writer.write(content)
                await writer.drain()
    except OSError:
        pass  # the connection was reset
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _close(server: asyncio.Server) -> None:
    server.close()
    ours = asyncio.all_tasks() - {asyncio.current_task()}
    for task in ours:
        task.cancel()
    await asyncio.gather(*ours, return_exceptions=True)
