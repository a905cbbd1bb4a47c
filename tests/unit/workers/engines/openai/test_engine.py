"""The openai engine against a real HTTP server: requests, limits, keys and shutdown."""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from common.errors import ConfigError, EngineError, TransientError
from common.settings import get_settings
from tests.support.engines.openai_asking import answer_first, ask, clock, open_openai, server, wait_for
from tests.support.engines.requests import ask_all, make_profile, make_request, run
from tests.support.faults.fake_clock import FakeClock
from tests.support.servers.openai_server import HANG, KEY, Asked, OpenAIServer, Reply, say, serve_openai
from tests.support.servers.tls_proxy import start_tls_proxy
from workers.engines.base import Generation
from workers.engines.openai import engine as openai_engine
from workers.engines.openai.engine import OpenAIEngine
from workers.engines.openai.wire import write_body

__all__ = ["clock", "server"]  # fixtures


# Requests and answers.


def test_request_carries_key_model_image_and_settings(server: OpenAIServer) -> None:
    server.reply = lambda _: say("a circle")

    async def ask_once() -> Generation:
        async with open_openai(server) as engine:
            return await engine.generate(make_request(text="What is it?", max_tokens=5, seed=8))

    assert run(ask_once()) == Generation("a circle", "stop", 11, 2)
    (asked,) = server.asked
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["content-type"] == "application/json"
    assert (asked.body["model"], asked.body["max_tokens"], asked.body["seed"]) == ("some-model", 5, 8)
    assert asked.text == "What is it?"
    assert [image[:4] for image in asked.images] == [b"\x89PNG"]


def test_unconfigured_key_is_not_sent(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-key-for-tests")
    (generation,) = ask(server, "x", api_key_env=None)
    assert generation.text == "ok"
    assert "authorization" not in server.asked[0].headers


def test_concurrent_requests_get_their_own_answers(server: OpenAIServer) -> None:
    server.reply = lambda asked: say(asked.text[::-1])
    texts = [f"question {number}" for number in range(100)]
    assert [generation.text for generation in ask(server, *texts)] == [text[::-1] for text in texts]


# Limits.


@pytest.mark.parametrize("concurrency", [1, 7])
def test_concurrency_bounds_encoded_and_sent_requests(
    server: OpenAIServer, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = 0
    lock = threading.Lock()
    unanswered: list[int] = []  # encoded bodies without an answer

    def write_and_count(*arguments: Any) -> bytes:
        nonlocal encoded
        with lock:
            encoded += 1
            unanswered.append(encoded - answered)
        return write_body(*arguments)

    answered = 0

    def reply(asked: Asked) -> Reply:
        nonlocal answered
        server.wait_for(concurrency)
        with lock:
            answered += 1
        return say(asked.text)

    monkeypatch.setattr(openai_engine, "write_body", write_and_count)
    server.reply = reply
    answers = ask(server, *map(str, range(40)), concurrency=concurrency)
    assert [answer.text for answer in answers] == [str(number) for number in range(40)]
    assert server.most_at_once == concurrency
    assert max(unanswered) == concurrency


def test_requests_start_at_the_configured_interval(server: OpenAIServer, clock: FakeClock) -> None:
    arrived_s: list[float] = []
    server.reply = lambda _: arrived_s.append(clock.now_s) or say()  # type: ignore[func-returns-value]  # append returns None
    ask(server, *"abcdef", clock=clock, requests_per_minute=30, request_delay_s=0.5, concurrency=1)
    assert arrived_s == [1000, 1002, 1004, 1006, 1008, 1010]


# Cancellation and stop.


def test_cancelled_request_frees_its_slot(server: OpenAIServer) -> None:
    server.reply = answer_first(HANG)

    async def cancel() -> Generation:
        async with open_openai(server, concurrency=1) as engine:
            hanging = asyncio.create_task(engine.generate(make_request(0, images=0)))
            await wait_for(lambda: server.asked)
            waiting = asyncio.create_task(engine.generate(make_request(1, images=0)))
            hanging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hanging
            return await waiting

    assert run(cancel()).text == "ok"


def test_stop_fails_waiting_and_later_requests(server: OpenAIServer) -> None:
    server.reply = lambda _: HANG

    async def stop() -> list[Any]:
        async with open_openai(server, concurrency=3) as engine:
            asking = [asyncio.create_task(engine.generate(make_request(number, images=0))) for number in range(9)]
            await wait_for(lambda: server.at_once == 3)
        with pytest.raises(EngineError, match="not running"):
            await engine.generate(make_request())
        await engine.stop()
        return await asyncio.gather(*asking, return_exceptions=True)

    errors = run(stop())
    assert len(errors) == 9
    assert all(isinstance(error, EngineError) and "was stopped" in str(error) for error in errors)


# Start.


def start(**options: Any) -> Coroutine[Any, Any, None]:
    return OpenAIEngine(make_profile("openai", options), "some-model").start()


def test_missing_key_fails_start(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="profile tried: the environment variable OPENAI_API_KEY is not set"):
        run(start())


def test_patience_beyond_stall_limit_fails_start(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_ENGINE_STALL_S", "400")
    get_settings.cache_clear()
    with pytest.raises(ConfigError, match=r"patience_s=300 and timeout_s=120 .* may take 510 s, but FLEET_ENGINE_STALL_S=400"):
        run(start())


def test_engines_do_not_share_state(server: OpenAIServer) -> None:
    server.reply = lambda _: server.wait_for(2) or say()  # type: ignore[func-returns-value]  # as above

    async def ask_two() -> list[Generation]:
        async with open_openai(server, concurrency=1) as one, open_openai(server, concurrency=1) as other:
            both = await asyncio.gather(ask_all(one, [make_request(images=0)]), ask_all(other, [make_request(images=0)]))
            return [generation for generations in both for generation in generations]

    assert [generation.text for generation in run(ask_two())] == ["ok", "ok"]


# HTTP.


def test_environment_does_not_add_headers(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official SDK reads these variables. The engine ignores them."""
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.setenv(name, "x-team: other")
    ask(server, "x")
    (asked,) = server.asked
    asked.headers.pop("host")
    asked.headers.pop("content-length")
    assert asked.headers.pop("accept-encoding").startswith("gzip")
    assert asked.headers == {
        "accept": "application/json",
        "authorization": f"Bearer {KEY}",
        "connection": "keep-alive",
        "content-type": "application/json",
        "user-agent": "vlm-fleet",
    }


@pytest.mark.parametrize("status", [307, 308])
def test_redirect_repeats_the_request(server: OpenAIServer, status: int) -> None:
    server.reply = answer_first(Reply(status, headers={"Location": "/v1/chat/completions"}))
    (generation,) = ask(server, "x")
    assert generation.text == "ok"
    first, second = server.asked
    assert first.body == second.body
    assert first.headers == second.headers


def test_redirect_to_another_host_omits_the_key(server: OpenAIServer) -> None:
    with serve_openai() as other:
        server.reply = lambda _: Reply(307, headers={"Location": f"{other.url}/chat/completions"})
        ask(server, "x")
        assert "authorization" not in other.asked[0].headers


def test_endless_redirect_is_an_endpoint_error(server: OpenAIServer, clock: FakeClock) -> None:
    server.reply = lambda _: Reply(307, headers={"Location": "/v1/chat/completions"})
    (error,) = ask(server, "x", clock=clock)
    assert isinstance(error, TransientError)
    assert "TooManyRedirects" in str(error)


def test_proxy_variables_are_used(server: OpenAIServer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # no server listens on port 1
    (error,) = ask(server, "x", clock=clock)
    assert isinstance(error, TransientError)
    assert server.asked == []


def test_certificate_is_checked_against_ssl_cert_file(
    server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, other_authority = trustme.CA(), trustme.CA()
    certificates = tmp_path / "authority.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates))
    with start_tls_proxy(server.server_port, authority) as port:
        url = f"https://127.0.0.1:{port}/v1"
        other_authority.cert_pem.write_to_path(certificates)
        (error,) = ask(server, "x", base_url=url)
        authority.cert_pem.write_to_path(certificates)
        (generation,) = ask(server, "x", base_url=url)
    assert isinstance(error, ConfigError)
    assert "SSL_CERT_FILE" in str(error)
    assert generation.text == "ok"


def test_more_than_100_requests_run_concurrently(server: OpenAIServer) -> None:
    """The default of httpx2 is at most 100 connections."""
    server.reply = lambda _: server.wait_for(150) or say()  # type: ignore[func-returns-value]  # as above
    answers = ask(server, *map(str, range(150)), concurrency=150)
    assert [answer.text for answer in answers] == ["ok"] * 150


def test_tls_failure_after_handshake_is_endpoint_error(
    server: OpenAIServer, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)

    def answer_unencrypted(listener: socket.socket) -> None:
        with suppress(OSError):  # the test closes the listener
            while True:
                with tls.wrap_socket(listener.accept()[0], server_side=True) as connection:
                    connection.recv(65536)
                    os.write(connection.fileno(), b"HTTP/1.1 200 OK\r\n\r\n")
                    # A close with unread bytes resets the connection, and the client may lose the answer.
                    with suppress(ConnectionError):
                        while os.read(connection.fileno(), 65536):
                            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=answer_unencrypted, args=(listener,))
        serving.start()
        (error,) = ask(server, "x", clock=clock, base_url=f"https://127.0.0.1:{listener.getsockname()[1]}/v1")
        listener.shutdown(socket.SHUT_RDWR)
        serving.join()
    assert isinstance(error, TransientError)
    assert "cannot be reached: SSLError" in str(error)
