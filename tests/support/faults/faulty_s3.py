"""An S3 server that fails on command: a proxy in front of moto's server that injects errors, delays and broken connections."""

import http.client
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message><RequestId>0</RequestId></Error>'

Fault = Callable[["Call"], None]


@dataclass
class Rule:
    """A fault and the requests that get it.

    ``asked`` is searched in "METHOD /path?query". ``left`` is the number of requests that still get the fault, or ``None`` for all.
    """

    fault: Fault
    asked: re.Pattern[str]
    left: int | None


class FaultyS3:
    """The proxy. ``faulted`` lists the requests that got a fault, oldest first, as "METHOD /path?query"."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.faulted: list[str] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._port = 0
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def shut(self) -> None:
        """Close every connection and refuse new ones until ``open``."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_connections()
        self._thread.join()

    def inject(self, fault: Fault, asked: str = "", *, times: int | None = None) -> None:
        """Inject ``fault`` into the next ``times`` requests that match ``asked``, or into all of them until ``clear_faults``."""
        with self._lock:
            self._rules.append(Rule(fault, re.compile(asked), times))

    def clear_faults(self) -> None:
        with self._lock:
            self._rules.clear()

    def take_fault(self, asked: str) -> Fault | None:
        """Return the fault of this request, if it has one, and record the request in ``faulted``."""
        with self._lock:
            for rule in self._rules:
                if rule.left != 0 and rule.asked.search(asked):
                    rule.left = None if rule.left is None else rule.left - 1
                    self.faulted.append(asked)
                    return rule.fault
        return None


@pytest.fixture
def faulty_s3(s3_endpoint: str, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """Yield a proxy that this process and its children use as the S3 server of ``s3_url``."""
    proxy = FaultyS3(s3_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.shut()


# Faults


def answer(status: int, code: str) -> Fault:
    """Respond with an S3 error, for example ``answer(503, "SlowDown")``, without forwarding the request."""
    return lambda call: call.send(status, {"Content-Type": "application/xml"}, ERROR.format(code=code).encode())


def delay(seconds: float) -> Fault:
    """Serve the request after a delay."""

    def wait_and_pass(call: "Call") -> None:
        time.sleep(seconds)  # this sleep is the fault
        call.send(*call.forward())

    return wait_and_pass


def lose_request(call: "Call") -> None:
    """Close the connection without forwarding the request."""
    call.cut()


def lose_answer(call: "Call") -> None:
    """Forward the request, and close the connection instead of sending the response."""
    call.forward()
    call.cut()


def cut_answer(call: "Call") -> None:
    """Close the connection in the middle of the response's body."""
    status, headers, body = call.forward()
    call.send(status, headers, body, sent=len(body) // 2)
    call.cut()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], proxy: FaultyS3) -> None:
        super().__init__(address, Call)
        self.proxy = proxy
        self.calls: set[Call] = set()

    def cut_connections(self) -> None:
        for call in list(self.calls):
            call.cut()

    def handle_error(self, request: object, client_address: object) -> None:
        """Do not print errors: killed clients break their connections."""


class Call(BaseHTTPRequestHandler):
    """One connection, which handles its requests in sequence."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.calls.add(self)

    def finish(self) -> None:
        self.server.calls.discard(self)
        with suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.proxy.take_fault(f"{self.command} {self.path}")
        if fault:
            fault(self)
        else:
            self.send(*self.forward())

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815  # http.server requires these names

    def forward(self) -> tuple[int, dict[str, str], bytes]:
        """Forward the request; return the status, headers and body of the response."""
        upstream = http.client.HTTPConnection(self.server.proxy.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, self.body or None, dict(self.headers))
            response = upstream.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            upstream.close()

    def send(self, status: int, headers: dict[str, str], body: bytes, *, sent: int | None = None) -> None:
        """Send the response, with the first ``sent`` bytes of its body, or all of them."""
        self.send_response_only(status)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        ours = {"connection", "content-length", "transfer-encoding"}
        for name, value in headers.items():
            if name.lower() not in ours:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])

    def cut(self) -> None:
        """Close the connection."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def log_message(self, *_: object) -> None:
        """Do not log requests."""
