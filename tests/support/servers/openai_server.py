"""A real HTTP server with OpenAI's chat completions API, which fails on command."""

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

KEY = "sk-live-5up3r-s3cr3t-0f-nobody"


@dataclass(frozen=True)
class Asked:
    """One request as received: the number of requests before it, its headers and its body."""

    number: int
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """Return the last message's text."""
        content = self.body["messages"][-1]["content"]
        return str(content if isinstance(content, str) else content[-1]["text"])

    @property
    def images(self) -> list[bytes]:
        """Return the last message's images, decoded from their data URLs."""
        parts = [part for part in self.body["messages"][-1]["content"] if isinstance(part, dict) and part["type"] == "image_url"]
        return [base64.b64decode(part["image_url"]["url"].partition("base64,")[2], validate=True) for part in parts]


@dataclass(frozen=True)
class Reply:
    """A response.

    - ``hangs``: the server never responds.
    - ``cuts``: the server closes the connection in the middle of the body.
    - ``drips``: the body arrives in small pieces and never ends.
    """

    status: int = 200
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    cuts: bool = False
    drips: bool = False


HANG = Reply(hangs=True)
CUT = Reply(content=b"x" * 100, cuts=True)
PAGE = Reply(
    502, b"<html><head><title>502 Bad\nGateway</title></head><body><h1>nginx</h1></body></html>", {"Content-Type": "text/html"}
)


def say(text: str | None = "ok", finish_reason: str | None = "stop", **message: Any) -> Reply:
    """Return a completion; keyword arguments are further fields of its message."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 11, "completion_tokens": len((text or "").split()), "total_tokens": 11}
    return say_json({"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage})


def refuse(status: int, message: str = "no", headers: dict[str, str] | None = None, **error: Any) -> Reply:
    """Return an error in OpenAI's format; keyword arguments are further fields of it."""
    return say_json({"error": {"message": message, **error}}, status, headers)


def say_json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})


class OpenAIServer(ThreadingHTTPServer):
    """A server that answers with the result of ``reply``, which many threads call.

    ``asked`` lists the requests; ``most_at_once`` is the highest number of simultaneous requests.
    """

    daemon_threads = True  # a client may keep its connection open
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply: Callable[[Asked], Reply] = lambda _: say()
        self.models = refuse(404)  # the response to GET /models
        self.asked: list[Asked] = []
        self.lists = 0  # the number of model-list requests so far
        self.cut_lists = 0  # the number of first model-list requests whose connection is closed without a response
        self.at_once = self.most_at_once = 0
        self.changed = threading.Condition()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def wait_for(self, at_once: int) -> None:
        """Block until ``at_once`` requests are open at the same time; for use in ``reply``."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.most_at_once >= at_once, timeout=60)

    @contextmanager
    def count(self) -> Iterator[None]:
        with self.changed:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.changed.notify_all()
        try:
            yield
        finally:
            with self.changed:
                self.at_once -= 1
                self.changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # http.server requires this name
        server = cast("OpenAIServer", self.server)
        assert self.path == "/v1/models"
        with server.changed:
            server.lists += 1
            if server.lists <= server.cut_lists:
                self.close_connection = True
                return
        reply = server.models
        self.send_response(reply.status)
        for name, text in reply.headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(reply.content)))
        self.end_headers()
        self.wfile.write(reply.content)

    def do_POST(self) -> None:  # http.server requires this name
        server = cast("OpenAIServer", self.server)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        with server.count():
            with server.changed:
                asked = Asked(len(server.asked), {name.lower(): text for name, text in self.headers.items()}, body)
                server.asked.append(asked)
            reply = server.reply(asked)
            if reply.hangs:
                server.closing.wait()
                self.close_connection = True
                return
        self.send_response(reply.status)
        for name, text in reply.headers.items():
            self.send_header(name, text)
        endless = reply.cuts or reply.drips
        self.send_header("Content-Length", str(2**40 if endless else len(reply.content)))
        self.end_headers()
        with suppress(OSError):  # the client has disconnected
            self.wfile.write(reply.content)
            while reply.drips and not server.closing.wait(0.02):
                self.wfile.write(b" ")
        if reply.cuts:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as http.server calls it
        """Do not log requests."""


@contextmanager
def serve_openai() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            serving.join()
