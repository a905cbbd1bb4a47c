"""TLS in front of a server without TLS, such as the Redis that tests start."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import trustme

from tests.support.servers.proxies import copy_stream, serve_in_thread


@contextmanager
def start_tls_proxy(
    port: int, authority: trustme.CA, *, name: str = "127.0.0.1", not_after: datetime | None = None
) -> Iterator[int]:
    """Forward TLS connections to ``port`` on 127.0.0.1; yield the port to connect to.

    The certificate is for ``name``, signed by ``authority``, and valid until ``not_after``.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, not_after=not_after).configure_cert(tls)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy_stream(reader, upstream[1]), copy_stream(upstream[0], writer))

    with serve_in_thread(forward, "tls proxy", tls) as proxy_port:
        yield proxy_port
