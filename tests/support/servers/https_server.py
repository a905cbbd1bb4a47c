"""A fake internet for tests: names with their addresses, and one real HTTPS server at every public address."""

import itertools
import os
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import pytest
import trustme

from workers.media.urls import make_tls

HOSTS = ("good.example", "other.example", "xn--bcher-kva.example", "93.184.215.14")  # the names in the certificate
PUBLIC = "93.184.215.14"
PUBLIC_V6 = "2606:4700:4700::1111"


def answer(body: bytes = b"", status: int = 200, **headers: str | int) -> list[bytes]:
    """Return an HTTP response in pieces. A header ``a_b=1`` is sent as ``a-b: 1``. The length is sent only if it is a header."""
    lines = [f"HTTP/1.1 {status} Reason", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ["\r\n".join([*lines, "", ""]).encode(), body]


class Server(socketserver.ThreadingTCPServer):
    """A server that sends the bytes in ``pages`` for the requested path; ``requests`` lists the heads of the requests."""

    def __init__(self, hosts: Iterable[str]) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.authority = trustme.CA()
        self.pages: dict[str, Iterable[bytes]] = {}
        self.requests: list[str] = []
        self.closing = threading.Event()
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert(*hosts).configure_cert(self._tls)

    def send_slowly(self, *, first: Iterable[bytes] = ()) -> Iterator[bytes]:
        """Yield ``first``, then single bytes at intervals, until the client or the test closes the connection."""
        yield from first
        while not self.closing.wait(0.02):
            yield b"x"

    def finish_request(self, request: Any, *_: Any) -> None:
        with (
            suppress(OSError),
            self._tls.wrap_socket(request, server_side=True) as connection,
        ):  # OSError: the client has disconnected
            head = b""
            while b"\r\n\r\n" not in head and (piece := connection.recv(65536)):
                head += piece
            if not head:
                return
            self.requests.append(head.decode())
            for piece in self.pages.get(head.split()[1].decode(), answer(status=404)):
                connection.sendall(piece)
            connection.unwrap()  # without a TLS shutdown, clients treat a body without a length as truncated


class Web:
    """A stub that resolves names, connects to the server, and records both.

    ``lookups`` lists the resolved hosts, ``connected`` the addresses that were connected to, each with its timeout (seconds) in
    ``timeouts``; connections to an address in ``silent`` time out.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.lookups: list[str] = []
        self.connected: list[str] = []
        self.timeouts: list[float] = []
        self._names: dict[str, Iterator[list[str]]] = {}
        self._resolve = socket.getaddrinfo
        self.silent: set[str] = set()
        for host in HOSTS:
            self.name(host, [PUBLIC])

    def name(self, host: str, *answers: list[str]) -> None:
        """Resolve ``host`` to the addresses of each answer in sequence, and then always to the addresses of the last answer."""
        self._names[host] = itertools.chain(answers, itertools.repeat(answers[-1]))

    def getaddrinfo(self, host: str, port: int, **options: Any) -> Any:
        """Replace ``socket.getaddrinfo``: resolve the known names and numeric addresses."""
        self.lookups.append(host)
        addresses = next(self._names[host]) if host in self._names else [host]
        return [entry for address in addresses for entry in self._resolve(address, port, flags=socket.AI_NUMERICHOST, **options)]

    def create_connection(self, address: tuple[str, int], timeout: float, **_: Any) -> socket.socket:
        """Replace ``socket.create_connection``: connect every address to our server, or time out."""
        host, port = address
        assert port == 443
        self.connected.append(host)
        self.timeouts.append(timeout)
        if host in self.silent:
            raise TimeoutError
        connection = socket.socket()
        connection.settimeout(timeout)
        connection.connect(cast("tuple[str, int]", self.server.server_address))
        return connection


@contextmanager
def serve_web(patch: pytest.MonkeyPatch, authority_file: str) -> Iterator[Web]:
    """Yield a ``Web`` whose server this process trusts; write the certificate of its authority to ``authority_file``."""
    server = Server(HOSTS)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    server.authority.cert_pem.write_to_path(authority_file)
    patch.setenv("SSL_CERT_FILE", os.fspath(authority_file))
    make_tls.cache_clear()
    web = Web(server)
    patch.setattr(socket, "getaddrinfo", web.getaddrinfo)
    patch.setattr(socket, "create_connection", web.create_connection)
    yield web
    server.closing.set()
    server.shutdown()
    server.server_close()
    serving.join()
    make_tls.cache_clear()
