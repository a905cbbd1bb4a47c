"""Media from https addresses: public hosts only, with one limit on time and one on size.

Datasets may come from untrusted authors, and a worker runs inside a network that those authors cannot reach. To prevent
server-side request forgery, each connection goes to exactly the IP address that was checked, also after a redirect: a second
resolution of the name could return another address. Proxies from the environment are not used, because a proxy would resolve
the name itself.
"""

import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpcore2
import httpx2
from typing_extensions import override

from common.errors import EXHAUSTED, SampleError, TransientError

PORT = 443
MOST_REDIRECTS = 5

_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)
# "identity" rules out decompression bombs.
_HEADERS = ((b"Accept", b"image/*"), (b"Accept-Encoding", b"identity"), (b"User-Agent", b"vlm-fleet"))

# Networks that ``ipaddress`` counts as global and that must still be refused. IANA assigns IPv6 addresses only from 2000::/3.
# Other IPv6 addresses reach, among others, IPv4 hosts through translation (64:ff9b::/96); 6to4 (2002::/16) reaches them too.
_UNICAST_V6 = ipaddress.ip_network("2000::/3")
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",  # IETF protocol assignments, including the metadata service of a cloud
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # Azure's metadata service, which has a public address
        "2002::/16",  # 6to4
    )
)


def fetch_url(url: str, *, timeout_s: float, max_bytes: int) -> bytes:
    """Return the content at an https address, at most ``max_bytes``. Redirects are followed.

    ``timeout_s`` limits the whole request in seconds, from name resolution to the last byte.

    Raises ``SampleError`` with one of these codes: ``media_forbidden`` (scheme, port, password or address not allowed),
    ``media_missing`` (404, 410), ``media_too_large``, and ``media_unreadable`` (any other response, no connection, timeout).
    A host that does not answer is a fault of the sample, because some addresses in a dataset are permanently unreachable. Raises
    ``TransientError`` if this machine has run out of descriptors or memory.
    """
    deadline = _Deadline(timeout_s)
    name, target = name_url(url), url
    try:
        for _ in range(MOST_REDIRECTS + 1):
            parsed_url = check_url(target, name)
            with _open_response(parsed_url, name, deadline) as response:
                if response.status not in _REDIRECTS:
                    return _read_body(response, name, max_bytes)
                target = _find_redirect(response, parsed_url, name)
            name = f"{name_url(url)} (redirected to {name_url(target)})"
    except (TimeoutError, httpcore2.TimeoutException):
        message = f"took longer than {timeout_s:g} s; download it, or set FLEET_MEDIA_URL_TIMEOUT_S on the workers"
        raise _unreadable(name, message) from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError, ValueError) as error:
        cause = error.__cause__ or error  # httpcore2 wraps the error of the system
        if isinstance(cause, OSError) and cause.errno in EXHAUSTED:
            raise TransientError(f"{name}: cannot be fetched now: {cause.strerror}") from error
        what = "TLS failed" if isinstance(error.__cause__, ssl.SSLError) else "the connection failed"
        raise _unreadable(name, f"{what}: {str(error)[:200]}") from error
    raise _unreadable(name, f"more than {MOST_REDIRECTS} redirects; give the address that they lead to")


def name_url(url: str) -> str:
    """Return an address for messages, without user, password, query and fragment, because these may contain secrets."""
    scheme, _, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def check_url(url: str, name: str) -> httpx2.URL:
    """Return the parsed address. ``name`` names it in error messages. Raises ``SampleError`` ``media_forbidden``."""
    try:
        parsed_url = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):  # ValueError: a lone surrogate
        raise _forbidden(name, "not a valid address; expected https://host/path") from None
    if parsed_url.scheme != "https":
        raise _forbidden(name, f"{parsed_url.scheme} addresses are not allowed; expected https://host/path")
    if not parsed_url.raw_host or b"%" in parsed_url.raw_host:  # "%": an escape, or the zone of a link-local address
        raise _forbidden(name, "the host is missing or has invalid characters; expected https://host/path")
    if parsed_url.userinfo:
        raise _forbidden(name, "user and password are not allowed in addresses; download the media and give its path")
    if parsed_url.port not in (None, PORT):
        raise _forbidden(name, f"port {parsed_url.port} is not allowed; expected {PORT}")
    return parsed_url


def is_public(address: str) -> bool:
    """Return whether an IP address is a public unicast address of the internet. Raises ``ValueError`` if it is not an address."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found not in _UNICAST_V6:
            return False
    if any(found in network for network in _NOT_PUBLIC):
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


@cache
def make_tls() -> ssl.SSLContext:
    """Return the TLS context that verifies hosts with the system's authorities, or those of ``SSL_CERT_FILE``.

    The authorities are read once in a process.
    """
    return httpcore2.default_ssl_context()


class _Deadline:
    def __init__(self, timeout_s: float) -> None:
        self._ends_at = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Return the remaining seconds. Raises ``TimeoutError`` after the deadline."""
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _PublicBackend(httpcore2.NetworkBackend):
    """Resolves a host once, checks all its addresses, and connects only to the checked addresses."""

    def __init__(self, name: str, deadline: _Deadline) -> None:
        self._name = name
        self._deadline = deadline

    @override
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = _resolve(host, self._name, self._deadline)
        if not all(is_public(address) for address in addresses):
            # The message does not name the address: it would disclose the structure of the internal network.
            raise _forbidden(
                self._name, f"{host} resolves to a private, local or otherwise reserved address; only public ones are allowed"
            )
        for tries_left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                # An address that does not answer must not use up the time for the other addresses.
                timeout_s = self._deadline.left_s() / tries_left
                return _BoundedStream(httpcore2.SyncBackend().connect_tcp(address, port, timeout_s), self._deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if tries_left == 1:
                    raise
        raise _unreadable(self._name, f"{host} has no address")


class _BoundedStream(httpcore2.NetworkStream):
    """A stream whose operations share one deadline. A read timeout alone does not bound a server that sends slowly."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    @override
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left_s())

    @override
    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left_s())

    @override
    def close(self) -> None:
        self._stream.close()

    @override
    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        try:
            return _BoundedStream(self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s()), self._deadline)
        except BaseException:
            self.close()  # the caller has no reference to the stream yet
            raise

    @override
    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _resolve(host: str, name: str, deadline: _Deadline) -> list[str]:
    """Return the addresses of a host without duplicates.

    ``getaddrinfo`` has no timeout, so it runs in a daemon thread that is abandoned when the deadline passes.
    """
    answer: Future[list[str]] = Future()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
            answer.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except Exception as error:  # noqa: BLE001  result() raises it again
            answer.set_exception(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        return answer.result(deadline.left_s())
    except TimeoutError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a label that is too long
        # Without free descriptors the resolver reports every host as unknown; this line then raises the real error.
        socket.socket().close()
        raise _unreadable(name, f"the host {host} is not known; check the address") from error


@contextmanager
def _open_response(url: httpx2.URL, name: str, deadline: _Deadline) -> Iterator[httpcore2.Response]:
    target = httpcore2.URL(scheme=b"https", host=url.raw_host, port=PORT, target=url.raw_path)
    backend = _PublicBackend(name, deadline)
    with (
        httpcore2.HTTPConnection(target.origin, ssl_context=make_tls(), network_backend=backend) as connection,
        connection.stream("GET", target, headers=[(b"Host", url.netloc), *_HEADERS]) as response,
    ):
        yield response


def _find_redirect(response: httpcore2.Response, url: httpx2.URL, name: str) -> str:
    location = _read_header(response, b"location")
    if not location:
        raise _unreadable(name, f"the server answered {response.status} without a Location")
    try:
        return str(url.join(location.decode()))
    except (httpx2.InvalidURL, ValueError):
        raise _unreadable(name, "the server redirects to an invalid address") from None


def _read_body(response: httpcore2.Response, name: str, max_bytes: int) -> bytes:
    if response.status in _GONE:
        raise SampleError("media_missing", f"{name}: the server answered {response.status}; check the address")
    if response.status != 200:
        raise _unreadable(name, f"the server answered {response.status}; expected 200")
    encoding = _read_header(response, b"content-encoding").strip().lower()
    if encoding not in (b"", b"identity"):
        raise _unreadable(name, "the server compresses its response despite the request; download the file and give its path")
    _check_size(int(_read_header(response, b"content-length") or 0), name, max_bytes)
    content = bytearray()
    for piece in response.iter_stream():
        content += piece
        _check_size(len(content), name, max_bytes)
    return bytes(content)


def _read_header(response: httpcore2.Response, header: bytes) -> bytes:
    return next((value for key, value in response.headers if key.lower() == header), b"")


def _check_size(size: int, name: str, max_bytes: int) -> None:
    if size > max_bytes:
        message = f"{name}: it has {size} bytes or more, but at most {max_bytes} are allowed; scale the image or video down"
        raise SampleError("media_too_large", message)


def _forbidden(name: str, what: str) -> SampleError:
    return SampleError("media_forbidden", f"{name}: {what}")


def _unreadable(name: str, what: str) -> SampleError:
    return SampleError("media_unreadable", f"{name}: {what}")
