"""A server behind a link that goes silent: connections stay open and carry nothing, as after a failover or in a forgetful NAT."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

_FOR_EVER = 2**31


class SilentProxy:
    """Made by ``start_silent_proxy``.  Forwards connections until it is told to be silent."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.accepted = 0
        self._behind = (host, port)
        self._silent_below = 0

    def be_silent(self, *, for_ever: bool = False) -> None:
        """Let the connections that are open carry nothing any more; those made later do, unless ``for_ever``."""
        self._silent_below = _FOR_EVER if for_ever else self.accepted

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.accepted = self.accepted, self.accepted + 1
        try:
            behind = await asyncio.open_connection(*self._behind)
            await asyncio.gather(self._pump(number, reader, behind[1]), self._pump(number, behind[0], writer))
        finally:
            writer.close()

    async def _pump(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy until one side hangs up, then hang up on the other; a silent connection swallows what it is given."""
        try:
            while content := await reader.read(65536):
                if number >= self._silent_below:
                    writer.write(content)
                    await writer.drain()
        except OSError:
            pass  # hung up rudely
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@contextmanager
def start_silent_proxy(url: str) -> Iterator[tuple[str, SilentProxy]]:
    """Yield the address of the Redis at ``url`` behind a link, and the link."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    proxy = SilentProxy(address.hostname, address.port)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # of connections that break when a test ends
    thread = threading.Thread(target=loop.run_forever, name="silent proxy")
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(proxy.forward, "127.0.0.1", 0), loop).result()
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield url.replace(f":{address.port}/", f":{proxy.port}/"), proxy
        finally:
            asyncio.run_coroutine_threadsafe(_close(server), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(server: asyncio.Server) -> None:
    server.close()
    ours = asyncio.all_tasks() - {asyncio.current_task()}
    for task in ours:
        task.cancel()
    await asyncio.gather(*ours, return_exceptions=True)
