"""A proxy whose connections stall: they stay open without data, as after a failover or a NAT timeout."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.support.servers.proxies import copy_stream, serve_in_thread

_ALL_CONNECTIONS = 2**31


class StallingProxy:
    """A proxy that forwards connections until ``stall``. ``start_stalling_proxy`` makes it."""

    def __init__(self, host: str, port: int) -> None:
        self.accepted = 0
        self._upstream = (host, port)
        self._stalled_below = 0

    def stall(self, *, permanently: bool = False) -> None:
        """Stop forwarding on the open connections. Later connections work, unless ``permanently``."""
        self._stalled_below = _ALL_CONNECTIONS if permanently else self.accepted

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.accepted = self.accepted, self.accepted + 1

        def is_stalled() -> bool:
            return number < self._stalled_below

        try:
            upstream = await asyncio.open_connection(*self._upstream)
            await asyncio.gather(
                copy_stream(reader, upstream[1], is_stalled=is_stalled), copy_stream(upstream[0], writer, is_stalled=is_stalled)
            )
        finally:
            writer.close()


@contextmanager
def start_stalling_proxy(url: str) -> Iterator[tuple[str, StallingProxy]]:
    """Start a proxy for the Redis at ``url``; yield the URL through the proxy, and the proxy."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    proxy = StallingProxy(address.hostname, address.port)
    with serve_in_thread(proxy.forward, "stalling proxy") as port:
        yield url.replace(f":{address.port}/", f":{port}/"), proxy
