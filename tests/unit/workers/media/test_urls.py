"""Media from URLs: only public https hosts, checked at each lookup and redirect, within limits of size and time."""

import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from PIL import Image

from common.errors import SampleError
from common.records import Media
from tests.support.media.media import load_image
from tests.support.servers.https_server import PUBLIC, PUBLIC_V6, Web, answer, serve_web
from workers.media import reader as media_module
from workers.media.files import MediaAccess
from workers.media.urls import MOST_REDIRECTS, is_public, make_tls

SIZE = (5, 4)
GOOD = "https://good.example/a.png"
LONG_S, SHORT_S = 60.0, 0.5


_STREAM = io.BytesIO()
Image.new("RGB", SIZE, "red").save(_STREAM, "PNG")
PNG = _STREAM.getvalue()


def load(uri: str, *, timeout_s: float = LONG_S, urls: bool = True, **place: Any) -> tuple[int, int]:
    return load_image(Media(uri=uri, **place), MediaAccess((), urls=urls, url_timeout_s=timeout_s)).size


def fault_of(uri: str, **options: Any) -> tuple[str, str]:
    with pytest.raises(SampleError) as caught:
        load(uri, **options)
    return caught.value.code, str(caught.value)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Web]:
    with serve_web(monkeypatch, str(tmp_path / "authority.pem")) as web:
        web.server.pages["/a.png"] = answer(PNG, content_length=len(PNG))
        yield web


def redirect(web: Web, target: str, *, status: int = 302, path: str = "/moved") -> str:
    web.server.pages[path] = answer(status=status, location=target, content_length=0)
    return f"https://good.example{path}"


# Accepted URLs.


def test_image_is_fetched_over_tls(web: Web) -> None:
    assert load(GOOD) == SIZE
    assert (web.lookups, web.connected) == (["good.example"], [PUBLIC])
    (request,) = web.server.requests
    assert request.startswith("GET /a.png HTTP/1.1\r\n")
    assert "Host: good.example\r\n" in request
    assert "Accept-Encoding: identity\r\n" in request


@pytest.mark.parametrize("uri", ["HTTPS://GOOD.Example:443/a.png", f"https://{PUBLIC}/a.png", "https://bücher.example/a.png"])
def test_spellings_of_a_public_host_are_accepted(web: Web, uri: str) -> None:
    assert load(uri) == SIZE


def test_query_is_sent_without_fragment(web: Web) -> None:
    web.server.pages["/%C3%A4%20b?q=1"] = answer(PNG)
    assert load("https://good.example/ä b?q=1#part") == SIZE


def test_body_without_length_is_read_completely(web: Web) -> None:
    web.server.pages["/a.png"] = answer(PNG)
    assert load(GOOD) == SIZE
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG)
    web.server.pages["/a.png"] = answer(chunked, transfer_encoding="chunked")
    assert load(GOOD) == SIZE


def test_base64_body_is_decoded(web: Web) -> None:
    web.server.pages["/a.txt"] = answer(b"bm8gaW1hZ2U=")
    code, message = fault_of("https://good.example/a.txt", encoding="base64")
    assert (code, "not an image" in message) == ("media_corrupt", True)


@pytest.mark.parametrize("target", ["https://other.example/a.png", "//other.example/a.png", "/a.png", "a.png"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_to_public_host_is_followed(web: Web, target: str, status: int) -> None:
    assert load(redirect(web, target, status=status)) == SIZE
    assert len(web.lookups) == 2  # the reader checks the target again, even on the same host


def test_proxies_of_environment_are_not_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert load(GOOD) == SIZE


def test_unresponsive_address_falls_back_to_the_next(web: Web) -> None:
    web.name("good.example", [PUBLIC_V6, PUBLIC])
    web.silent.add(PUBLIC_V6)
    assert load(GOOD) == SIZE
    assert web.connected == [PUBLIC_V6, PUBLIC]
    assert web.timeouts[0] <= LONG_S / 2


# Rejected URLs.


@pytest.mark.parametrize("uri", [GOOD, "http://good.example/a.png", "ftp://bucket/a.png", "gopher://x/"])
def test_urls_are_disabled_by_default(web: Web, uri: str) -> None:
    code, message = fault_of(uri, urls=False)
    assert code == "media_unsupported"
    assert "FLEET_MEDIA_URLS=1" in message
    assert web.lookups == []


OTHER_FORMS = (
    "http://good.example/a ftp://good.example/a s3://bucket/a https:///a https:// https://[::1/a https://exa%6dple.example/a"
)
OTHER_PARTS = "https://good.example:8443/a https://good.example:22/a https://a:secret@good.example/a https://a@good.example/a"
STRANGE = [
    "https://good.example\\@127.0.0.1/a.png",
    "https://good.example\r\nHost: evil/a.png",
    "https://good.example\0/a.png",
    "https://\ud800.example/a.png",
    "https://good.example/\ud800.png",
    "https://①②⑦.0.0.1/a.png",  # some libraries parse these digits as 127
]


@pytest.mark.parametrize("uri", [*OTHER_FORMS.split(), *OTHER_PARTS.split(), *STRANGE])
def test_invalid_urls_are_rejected_before_any_lookup(web: Web, uri: str) -> None:
    code, message = fault_of(uri)
    assert code == "media_forbidden"
    assert "secret" not in message
    assert web.lookups == []


PRIVATE = "127.0.0.1 ::1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 ::ffff:10.0.0.1 fd00:ec2::254 fe80::1"


@pytest.mark.parametrize("addresses", [*PRIVATE.split(), f"{PUBLIC},10.1.2.3", f"{PUBLIC_V6},::1,{PUBLIC}"])
def test_host_with_private_address_is_rejected(web: Web, addresses: str) -> None:
    web.name("sly.example", addresses.split(","))
    for uri in ("https://sly.example/a.png", redirect(web, "https://sly.example/a.png")):
        web.connected.clear()
        code, message = fault_of(uri)
        assert code == "media_forbidden"
        assert "sly.example" in message
        assert not any(address in message for address in addresses.split(","))
        assert web.connected in ([], [PUBLIC])  # only the redirecting host
    assert len(web.server.requests) == 1


PRIVATE_SPELLINGS_V4 = "127.0.0.1 2130706433 0x7f.1 0x7f000001 0177.0.0.1 017700000001 127.1 0 127。0。0。1 169.254.169.254 10.1"
PRIVATE_SPELLINGS_V6 = "[::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [fe80::1] [fe80::1%25lo] [64:ff9b::7f00:1] [2002:7f00:1::]"


@pytest.mark.parametrize("host", [*PRIVATE_SPELLINGS_V4.split(), *PRIVATE_SPELLINGS_V6.split()])
def test_every_spelling_of_private_address_is_rejected(web: Web, host: str) -> None:
    assert fault_of(f"https://{host}/a.png")[0] == "media_forbidden"
    assert web.connected == []


PRIVATE_TARGETS = "https://169.254.169.254/latest/meta-data https://[::1]/ https://0x7f.1/ //127.0.0.1/a.png file:///etc/passwd"
INVALID_TARGETS = "http://good.example/a.png https://good.example:8443/a.png https://user:secret@good.example/a.png"


@pytest.mark.parametrize("target", [*PRIVATE_TARGETS.split(), *INVALID_TARGETS.split()])
def test_redirect_target_is_checked_like_a_url(web: Web, target: str) -> None:
    code, message = fault_of(redirect(web, target))
    assert code == "media_forbidden"
    assert "https://good.example/moved (redirected to " in message
    assert "secret" not in message
    assert web.connected == [PUBLIC]


def test_connection_uses_the_checked_address(web: Web) -> None:
    web.name("rebinding.example", [PUBLIC], ["127.0.0.1"])
    code, _ = fault_of("https://rebinding.example/a.png")
    assert code == "media_unreadable"  # the certificate is valid for other names only
    assert (web.lookups, web.connected) == (["rebinding.example"], [PUBLIC])
    web.name("good.example", [PUBLIC], ["127.0.0.1"])
    assert load(GOOD) == SIZE
    assert web.connected == [PUBLIC, PUBLIC]


def test_address_change_between_redirects_is_rejected(web: Web) -> None:
    web.name("good.example", [PUBLIC], ["127.0.0.1"])
    assert fault_of(redirect(web, "/a.png"))[0] == "media_forbidden"
    assert web.connected == [PUBLIC]


def test_byte_range_of_url_is_rejected(web: Web) -> None:
    assert fault_of(GOOD, offset=0, length=9)[0] == "media_unsupported"
    assert web.lookups == []


def test_errors_do_not_show_the_query(web: Web) -> None:
    for uri in ("https://good.example/gone?token=secret#secret", redirect(web, "https://other.example/gone?token=secret")):
        code, message = fault_of(uri)
        assert code == "media_missing"
        assert "/gone" in message
        assert "secret" not in message


RESERVED_V4 = (
    "100.100.100.200 192.0.0.192 168.63.129.16 192.88.99.1 224.0.0.1 239.1.1.1 240.0.0.1 0.0.0.0 255.255.255.255 198.18.0.1"
)
RESERVED_V6 = "::127.0.0.1 64:ff9b::a00:1 64:ff9b:1::1 2002:a00:1:: 2001::1 fec0::1 ff0e::1 2001:db8::1 5f00::1 fe80::1%lo"
RESERVED_MAPPED = "::ffff:169.254.169.254 ::ffff:100.64.0.1 ::ffff:168.63.129.16"


@pytest.mark.parametrize("address", [*RESERVED_V4.split(), *RESERVED_V6.split(), *RESERVED_MAPPED.split()])
def test_reserved_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, PUBLIC_V6, "1.1.1.1", "::ffff:8.8.8.8"])
def test_internet_addresses_are_public(address: str) -> None:
    assert is_public(address)


# Faults.


@pytest.mark.parametrize(("status", "code"), [(404, "media_missing"), (410, "media_missing"), (500, "media_unreadable")])
@pytest.mark.parametrize("body", [b"", PNG], ids=["empty", "an image"])
def test_error_message_contains_the_status(web: Web, status: int, code: str, body: bytes) -> None:
    web.server.pages["/a.png"] = answer(body, status, content_length=len(body))
    found, message = fault_of(GOOD)
    assert (found, str(status) in message) == (code, True)


@pytest.mark.parametrize("status", [101, 204, 206, 304, 401, 403, 418, 429, 503])
def test_other_statuses_are_unreadable(web: Web, status: int) -> None:
    web.server.pages["/a.png"] = answer(status=status)
    assert fault_of(GOOD)[0] == "media_unreadable"


def test_too_many_redirects_are_rejected(web: Web) -> None:
    for number in range(MOST_REDIRECTS + 2):
        redirect(web, f"/{number + 1}", path=f"/{number}")
    web.server.pages[f"/{MOST_REDIRECTS + 1}"] = answer(PNG)
    code, message = fault_of("https://good.example/0")
    assert (code, "redirects" in message) == ("media_unreadable", True)
    assert load("https://good.example/1") == SIZE
    assert len(web.server.requests) == 2 * (MOST_REDIRECTS + 1)


@pytest.mark.parametrize("line", [b"", b"Location:\r\n", b"Location: https://\xff\xfe/\r\n"])
def test_redirect_without_target_is_unreadable(web: Web, line: bytes) -> None:
    web.server.pages["/moved"] = [b"HTTP/1.1 302 Found\r\n" + line + b"\r\n"]
    assert fault_of("https://good.example/moved")[0] == "media_unreadable"
    assert len(web.server.requests) == 1


def test_oversized_content_length_is_rejected(web: Web) -> None:
    web.server.pages["/a.png"] = answer(PNG, content_length=media_module.MAX_BYTES + 1)
    assert fault_of(GOOD)[0] == "media_too_large"


@pytest.mark.parametrize("headers", [{}, {"transfer_encoding": "chunked"}])
def test_endless_answer_is_rejected_at_the_limit(web: Web, monkeypatch: pytest.MonkeyPatch, headers: dict[str, Any]) -> None:
    monkeypatch.setattr(media_module, "MAX_BYTES", 3 * 2**16)

    def send() -> Iterator[bytes]:
        yield from answer(**headers)
        while not web.server.closing.is_set():
            yield b"%x\r\n%b\r\n" % (2**14, b"x" * 2**14)

    web.server.pages["/a.png"] = send()
    assert fault_of(GOOD)[0] == "media_too_large"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "zstd"])
def test_compressed_answer_is_rejected(web: Web, encoding: str) -> None:
    web.server.pages["/a.png"] = answer(PNG, content_length=len(PNG), content_encoding=encoding)
    code, message = fault_of(GOOD)
    assert (code, "compresses" in message) == ("media_unreadable", True)


def test_truncated_answer_is_unreadable(web: Web) -> None:
    web.server.pages["/a.png"] = answer(PNG, content_length=len(PNG) + 1)
    assert fault_of(GOOD)[0] == "media_unreadable"
    web.server.pages["/a.png"] = [b"HTTP/1.1 200"]
    assert fault_of(GOOD)[0] == "media_unreadable"


def test_non_http_answer_is_unreadable(web: Web) -> None:
    web.server.pages["/a.png"] = [b"SSH-2.0-OpenSSH_9.9\r\n\r\n"]
    code, message = fault_of(GOOD)
    assert code == "media_unreadable"
    assert len(message) < 400


def test_endless_headers_are_unreadable(web: Web) -> None:
    web.server.pages["/a.png"] = web.server.send_slowly(first=[b"HTTP/1.1 200 OK\r\nx: ", b"x" * 2**20])
    assert fault_of(GOOD)[0] == "media_unreadable"


def test_content_that_is_not_an_image_is_corrupt(web: Web) -> None:
    for body in (b"", b"<html>Please log in</html>"):
        web.server.pages["/a.png"] = answer(body, content_length=len(body))
        assert fault_of(GOOD)[0] == "media_corrupt"


# TLS.


def test_certificate_of_other_host_is_rejected(web: Web) -> None:
    web.name("wrong.example", [PUBLIC])
    code, message = fault_of("https://wrong.example/a.png")
    assert (code, "TLS failed" in message) == ("media_unreadable", True)
    assert "certificate is not valid for 'wrong.example'" in message
    assert web.server.requests == []


def test_certificate_of_unknown_authority_is_rejected(web: Web, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    make_tls.cache_clear()
    code, message = fault_of(GOOD)
    assert (code, "TLS failed" in message) == ("media_unreadable", True)
    assert web.server.requests == []


def test_refused_connection_and_unknown_host_are_unreadable(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("unknown.example", "a" * 70 + ".example", "a..example"):
        code, message = fault_of(f"https://{host}/a.png")
        assert (code, "is not known" in message) == ("media_unreadable", True)

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    code, message = fault_of(GOOD)
    assert (code, "Connection refused" in message) == ("media_unreadable", True)


# Timeouts.


def assert_out_of_time(uri: str) -> None:
    code, message = fault_of(uri, timeout_s=SHORT_S)
    assert (code, "took longer than 0.5 s" in message) == ("media_unreadable", True)


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nx-slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"])
def test_slow_answer_ends_by_timeout(web: Web, first: bytes) -> None:
    web.server.pages["/a.png"] = web.server.send_slowly(first=[first])
    assert_out_of_time(GOOD)


def test_endless_informational_responses_end_by_timeout(web: Web) -> None:
    def send() -> Iterator[bytes]:
        while not web.server.closing.wait(0.01):
            yield b"HTTP/1.1 103 Early Hints\r\n\r\n"

    web.server.pages["/a.png"] = send()
    assert_out_of_time(GOOD)


def test_redirects_share_one_timeout(web: Web) -> None:
    web.server.pages["/slow"] = web.server.send_slowly(first=answer(status=200, content_length=99999))
    assert_out_of_time(redirect(web, "/slow"))


def test_unanswered_handshake_ends_by_timeout(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setattr(web.server, "server_address", listener.getsockname())
        assert_out_of_time(GOOD)


def test_unresponsive_addresses_end_by_timeout(web: Web) -> None:
    web.silent.add(PUBLIC)
    assert_out_of_time(GOOD)


def test_unresponsive_resolver_ends_by_timeout(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait() and [])
    try:
        assert_out_of_time(GOOD)
    finally:
        ended.set()


def test_host_without_address_is_unreadable(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    code, message = fault_of(GOOD)
    assert (code, "has no address" in message) == ("media_unreadable", True)
