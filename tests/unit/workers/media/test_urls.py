"""Media from addresses: public https hosts only, whatever names and redirects say; little and soon, or not at all."""

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


# What is fetched.


def test_an_image_is_fetched_over_tls(web: Web) -> None:
    assert load(GOOD) == SIZE
    assert (web.lookups, web.dialled) == (["good.example"], [PUBLIC])
    (request,) = web.server.requests
    assert request.startswith("GET /a.png HTTP/1.1\r\n")
    assert "Host: good.example\r\n" in request
    assert "Accept-Encoding: identity\r\n" in request


@pytest.mark.parametrize("uri", ["HTTPS://GOOD.Example:443/a.png", f"https://{PUBLIC}/a.png", "https://bücher.example/a.png"])
def test_spellings_of_a_public_host_are_read(web: Web, uri: str) -> None:
    assert load(uri) == SIZE


def test_the_query_is_sent_and_the_fragment_is_not(web: Web) -> None:
    web.server.pages["/%C3%A4%20b?q=1"] = answer(PNG)
    assert load("https://good.example/ä b?q=1#part") == SIZE


def test_a_body_of_no_stated_length_is_read_to_its_end(web: Web) -> None:
    web.server.pages["/a.png"] = answer(PNG)
    assert load(GOOD) == SIZE
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG)
    web.server.pages["/a.png"] = answer(chunked, transfer_encoding="chunked")
    assert load(GOOD) == SIZE


def test_base64_at_an_address_is_decoded(web: Web) -> None:
    web.server.pages["/a.txt"] = answer(b"bm8gaW1hZ2U=")
    code, message = fault_of("https://good.example/a.txt", encoding="base64")
    assert (code, "not an image" in message) == ("media_corrupt", True)


@pytest.mark.parametrize("target", ["https://other.example/a.png", "//other.example/a.png", "/a.png", "a.png"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_public_host_is_followed(web: Web, target: str, status: int) -> None:
    assert load(redirect(web, target, status=status)) == SIZE
    assert len(web.lookups) == 2  # the target is checked again, the same host too


def test_proxies_of_the_environment_are_not_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert load(GOOD) == SIZE


def test_a_silent_address_is_passed_over_for_the_next(web: Web) -> None:
    web.name("good.example", [PUBLIC_V6, PUBLIC])
    web.silent.add(PUBLIC_V6)
    assert load(GOOD) == SIZE
    assert web.dialled == [PUBLIC_V6, PUBLIC]
    assert web.timeouts[0] <= LONG_S / 2


# What is not allowed.


@pytest.mark.parametrize("uri", [GOOD, "http://good.example/a.png", "s3://bucket/a.png", "gopher://x/"])
def test_addresses_are_off_by_default(web: Web, uri: str) -> None:
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
    "https://①②⑦.0.0.1/a.png",  # digits that some libraries read as 127
]


@pytest.mark.parametrize("uri", [*OTHER_FORMS.split(), *OTHER_PARTS.split(), *STRANGE])
def test_addresses_of_another_form_are_refused_before_anything_is_asked(web: Web, uri: str) -> None:
    code, message = fault_of(uri)
    assert code == "media_forbidden"
    assert "secret" not in message
    assert web.lookups == []


PRIVATE = "127.0.0.1 ::1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 ::ffff:10.0.0.1 fd00:ec2::254 fe80::1"


@pytest.mark.parametrize("addresses", [*PRIVATE.split(), f"{PUBLIC},10.1.2.3", f"{PUBLIC_V6},::1,{PUBLIC}"])
def test_a_name_that_leads_inside_is_refused_and_nothing_is_connected(web: Web, addresses: str) -> None:
    web.name("sly.example", addresses.split(","))
    for uri in ("https://sly.example/a.png", redirect(web, "https://sly.example/a.png")):
        web.dialled.clear()
        code, message = fault_of(uri)
        assert code == "media_forbidden"
        assert "sly.example" in message
        assert not any(address in message for address in addresses.split(","))
        assert web.dialled in ([], [PUBLIC])  # the redirecting host alone
    assert len(web.server.requests) == 1


INNER_V4 = "127.0.0.1 2130706433 0x7f.1 0x7f000001 0177.0.0.1 017700000001 127.1 0 127。0。0。1 169.254.169.254 10.1"
INNER_V6 = "[::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [fe80::1] [fe80::1%25lo] [64:ff9b::7f00:1] [2002:7f00:1::]"


@pytest.mark.parametrize("host", [*INNER_V4.split(), *INNER_V6.split()])
def test_no_spelling_of_an_inner_address_passes(web: Web, host: str) -> None:
    assert fault_of(f"https://{host}/a.png")[0] == "media_forbidden"
    assert web.dialled == []


INSIDE = "https://169.254.169.254/latest/meta-data https://[::1]/ https://0x7f.1/ //127.0.0.1/a.png file:///etc/passwd"
REFUSED = "http://good.example/a.png https://good.example:8443/a.png https://someone:secret@good.example/a.png"


@pytest.mark.parametrize("target", [*INSIDE.split(), *REFUSED.split()])
def test_a_redirect_is_checked_like_the_address_itself(web: Web, target: str) -> None:
    code, message = fault_of(redirect(web, target))
    assert code == "media_forbidden"
    assert "https://good.example/moved (redirected to " in message
    assert "secret" not in message
    assert web.dialled == [PUBLIC]


def test_a_name_is_looked_up_once_and_the_checked_address_is_connected_to(web: Web) -> None:
    web.name("rebinding.example", [PUBLIC], ["127.0.0.1"])
    code, _ = fault_of("https://rebinding.example/a.png")
    assert code == "media_unreadable"  # the certificate is for other names
    assert (web.lookups, web.dialled) == (["rebinding.example"], [PUBLIC])
    web.name("good.example", [PUBLIC], ["127.0.0.1"])
    assert load(GOOD) == SIZE
    assert web.dialled == [PUBLIC, PUBLIC]


def test_a_host_that_changes_its_address_between_redirects_is_refused(web: Web) -> None:
    web.name("good.example", [PUBLIC], ["127.0.0.1"])
    assert fault_of(redirect(web, "/a.png"))[0] == "media_forbidden"
    assert web.dialled == [PUBLIC]


def test_a_byte_range_of_an_address_is_not_read(web: Web) -> None:
    assert fault_of(GOOD, offset=0, length=9)[0] == "media_unsupported"
    assert web.lookups == []


def test_messages_do_not_tell_what_stands_in_the_query(web: Web) -> None:
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
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


# What goes wrong.


@pytest.mark.parametrize(("status", "code"), [(404, "media_missing"), (410, "media_missing"), (500, "media_unreadable")])
@pytest.mark.parametrize("body", [b"", PNG], ids=["empty", "an image"])
def test_a_status_that_is_not_200_is_named(web: Web, status: int, code: str, body: bytes) -> None:
    web.server.pages["/a.png"] = answer(body, status, content_length=len(body))
    found, message = fault_of(GOOD)
    assert (found, str(status) in message) == (code, True)


@pytest.mark.parametrize("status", [101, 204, 206, 304, 401, 403, 418, 429, 503])
def test_other_statuses_are_unreadable(web: Web, status: int) -> None:
    web.server.pages["/a.png"] = answer(status=status)
    assert fault_of(GOOD)[0] == "media_unreadable"


def test_more_redirects_than_allowed_are_not_followed(web: Web) -> None:
    for number in range(MOST_REDIRECTS + 2):
        redirect(web, f"/{number + 1}", path=f"/{number}")
    web.server.pages[f"/{MOST_REDIRECTS + 1}"] = answer(PNG)
    code, message = fault_of("https://good.example/0")
    assert (code, "redirects" in message) == ("media_unreadable", True)
    assert load("https://good.example/1") == SIZE
    assert len(web.server.requests) == 2 * (MOST_REDIRECTS + 1)


@pytest.mark.parametrize("line", [b"", b"Location:\r\n", b"Location: https://\xff\xfe/\r\n"])
def test_a_redirect_to_no_address_is_unreadable(web: Web, line: bytes) -> None:
    web.server.pages["/moved"] = [b"HTTP/1.1 302 Found\r\n" + line + b"\r\n"]
    assert fault_of("https://good.example/moved")[0] == "media_unreadable"
    assert len(web.server.requests) == 1


def test_an_answer_that_says_it_is_too_large_is_not_read(web: Web) -> None:
    web.server.pages["/a.png"] = answer(PNG, content_length=media_module.MAX_BYTES + 1)
    assert fault_of(GOOD)[0] == "media_too_large"


@pytest.mark.parametrize("headers", [{}, {"transfer_encoding": "chunked"}])
def test_an_endless_answer_is_left_as_soon_as_it_is_too_large(
    web: Web, monkeypatch: pytest.MonkeyPatch, headers: dict[str, Any]
) -> None:
    monkeypatch.setattr(media_module, "MAX_BYTES", 3 * 2**16)

    def send() -> Iterator[bytes]:
        yield from answer(**headers)
        while not web.server.closing.is_set():
            yield b"%x\r\n%b\r\n" % (2**14, b"x" * 2**14)

    web.server.pages["/a.png"] = send()
    assert fault_of(GOOD)[0] == "media_too_large"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "zstd"])
def test_a_compressed_answer_is_refused(web: Web, encoding: str) -> None:
    web.server.pages["/a.png"] = answer(PNG, content_length=len(PNG), content_encoding=encoding)
    code, message = fault_of(GOOD)
    assert (code, "compresses" in message) == ("media_unreadable", True)


def test_an_answer_that_ends_too_soon_is_unreadable(web: Web) -> None:
    web.server.pages["/a.png"] = answer(PNG, content_length=len(PNG) + 1)
    assert fault_of(GOOD)[0] == "media_unreadable"
    web.server.pages["/a.png"] = [b"HTTP/1.1 200"]
    assert fault_of(GOOD)[0] == "media_unreadable"


def test_an_answer_that_is_no_http_is_unreadable(web: Web) -> None:
    web.server.pages["/a.png"] = [b"SSH-2.0-OpenSSH_9.9\r\n\r\n"]
    code, message = fault_of(GOOD)
    assert code == "media_unreadable"
    assert len(message) < 400


def test_headers_without_end_are_unreadable(web: Web) -> None:
    web.server.pages["/a.png"] = web.server.drip(first=[b"HTTP/1.1 200 OK\r\nx: ", b"x" * 2**20])
    assert fault_of(GOOD)[0] == "media_unreadable"


def test_what_is_no_image_is_corrupt(web: Web) -> None:
    for body in (b"", b"<html>Please log in</html>"):
        web.server.pages["/a.png"] = answer(body, content_length=len(body))
        assert fault_of(GOOD)[0] == "media_corrupt"


# TLS.


def test_a_certificate_for_another_host_is_not_accepted(web: Web) -> None:
    web.name("wrong.example", [PUBLIC])
    code, message = fault_of("https://wrong.example/a.png")
    assert (code, "TLS failed" in message) == ("media_unreadable", True)
    assert "certificate is not valid for 'wrong.example'" in message
    assert web.server.requests == []


def test_a_certificate_of_an_unknown_authority_is_not_accepted(web: Web, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    make_tls.cache_clear()
    code, message = fault_of(GOOD)
    assert (code, "TLS failed" in message) == ("media_unreadable", True)
    assert web.server.requests == []


def test_a_refused_connection_and_an_unknown_host_are_unreadable(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("unknown.example", "a" * 70 + ".example", "a..example"):
        code, message = fault_of(f"https://{host}/a.png")
        assert (code, "is not known" in message) == ("media_unreadable", True)

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    code, message = fault_of(GOOD)
    assert (code, "Connection refused" in message) == ("media_unreadable", True)


# Time.


def assert_out_of_time(uri: str) -> None:
    code, message = fault_of(uri, timeout_s=SHORT_S)
    assert (code, "took longer than 0.5 s" in message) == ("media_unreadable", True)


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nx-slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"])
def test_an_answer_that_drips_does_not_outlive_the_time(web: Web, first: bytes) -> None:
    web.server.pages["/a.png"] = web.server.drip(first=[first])
    assert_out_of_time(GOOD)


def test_preliminary_answers_without_end_do_not_outlive_the_time(web: Web) -> None:
    def send() -> Iterator[bytes]:
        while not web.server.closing.wait(0.01):
            yield b"HTTP/1.1 103 Early Hints\r\n\r\n"

    web.server.pages["/a.png"] = send()
    assert_out_of_time(GOOD)


def test_redirects_share_one_time(web: Web) -> None:
    web.server.pages["/slow"] = web.server.drip(first=answer(status=200, content_length=99999))
    assert_out_of_time(redirect(web, "/slow"))


def test_a_handshake_that_nobody_answers_does_not_outlive_the_time(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setattr(web.server, "server_address", deaf.getsockname())
        assert_out_of_time(GOOD)


def test_addresses_that_are_all_silent_do_not_outlive_the_time(web: Web) -> None:
    web.silent.add(PUBLIC)
    assert_out_of_time(GOOD)


def test_a_resolver_that_does_not_answer_does_not_outlive_the_time(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait() and [])
    try:
        assert_out_of_time(GOOD)
    finally:
        over.set()


def test_a_resolver_that_knows_no_address_is_told(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    code, message = fault_of(GOOD)
    assert (code, "has no address" in message) == ("media_unreadable", True)
