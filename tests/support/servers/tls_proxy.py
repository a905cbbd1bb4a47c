"""TLS in front of a server that speaks none, such as the Redis that tests start."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trustme


@contextmanager
def start_tls_proxy(port: int, authority: trustme.CA, *, name: str = "127.0.0.1") -> Iterator[int]:
    """Forward TLS connections to ``port`` on 127.0.0.1; yield the port to connect to.

    The certificate is for ``name`` and signed by ``authority``.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(tls)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # clients that refuse the certificate hang up; that is the point
    thread = threading.Thread(target=loop.run_forever, name="tls proxy")
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(_serve(port, tls), loop).result()
        yield server.sockets[0].getsockname()[1]
        asyncio.run_coroutine_threadsafe(_close(server), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _serve(port: int, tls: ssl.SSLContext) -> asyncio.Server:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, behind[1]), _pump(behind[0], writer))

    return await asyncio.start_server(forward, "127.0.0.1", 0, ssl=tls)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until one side hangs up, then hang up on the other."""
    with suppress(OSError):
        while content := await reader.read(65536):
            writer.write(content)
            await writer.drain()
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _close(server: asyncio.Server) -> None:
    server.close()
    ours = asyncio.all_tasks() - {asyncio.current_task()}
    for task in ours:
        task.cancel()
    await asyncio.gather(*ours, return_exceptions=True)
