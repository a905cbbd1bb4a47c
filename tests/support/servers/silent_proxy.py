"""A proxy whose connections go silent: they stay open and carry nothing, as after a failover or a NAT timeout."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.support.servers.proxies import copy_stream, serve_in_thread

_ALL_CONNECTIONS = 2**31


class SilentProxy:
    """Forwards connections until ``be_silent``. Made by ``start_silent_proxy``."""

    def __init__(self, host: str, port: int) -> None:
        self.accepted = 0
        self._upstream = (host, port)
        self._silent_below = 0

    def be_silent(self, *, permanently: bool = False) -> None:
        """Carry nothing more on the open connections; later ones work, unless ``permanently``."""
        self._silent_below = _ALL_CONNECTIONS if permanently else self.accepted

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.accepted = self.accepted, self.accepted + 1

        def is_silent() -> bool:
            return number < self._silent_below

        try:
            upstream = await asyncio.open_connection(*self._upstream)
            await asyncio.gather(
                copy_stream(reader, upstream[1], is_silent=is_silent), copy_stream(upstream[0], writer, is_silent=is_silent)
            )
        finally:
            writer.close()


@contextmanager
def start_silent_proxy(url: str) -> Iterator[tuple[str, SilentProxy]]:
    """Yield the address under which the Redis at ``url`` is reached through a proxy, and the proxy."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    proxy = SilentProxy(address.hostname, address.port)
    with serve_in_thread(proxy.forward, "silent proxy") as port:
        yield url.replace(f":{address.port}/", f":{port}/"), proxy
