"""Classification of endpoint errors with the responses of real endpoints."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate
from typing import Any

import httpx2
import pytest

from common.errors import ConfigError, SampleError
from tests.support.servers.openai_server import KEY, PAGE
from workers.engines.openai.errors import (
    NO_ANSWER_WEIGHT,
    Endpoint,
    EndpointError,
    classify_empty,
    classify_exception,
    classify_status,
    quote,
    read_retry_after_s,
)

ENDPOINT = Endpoint("gemini", "gemini-pro", "https://host/v1", "GEMINI_API_KEY")
REQUEST = httpx2.Request("POST", "https://host/v1/chat/completions")


def sort(status: int, body: object = b"", endpoint: Endpoint = ENDPOINT, headers: dict[str, str] | None = None) -> Exception:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = httpx2.Response(status, content=content, headers=headers, request=REQUEST)
    return classify_status(response, endpoint)


def wrap(**error: Any) -> dict[str, Any]:
    return {"error": {"message": "some words", **error}}


GOOGLE_WRONG_KEY = [wrap(code=400, status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}, "odd"])]
FIREWALL_PAGE = (
    b"<html><head><title>Attention Required! | Cloudflare</title></head><body>Sorry, you have been blocked</body></html>"
)
TOO_LARGE = (
    "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 36278. The input or output "
    "tokens must be reduced in order to run successfully."
)
OPENROUTER_FLAGGED = wrap(code=403, metadata={"reasons": ["violence"], "flagged_input": "..."})


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 520, 524, 529])
def test_temporary_status_is_an_endpoint_error(status: int) -> None:
    error = sort(status, wrap())
    assert isinstance(error, EndpointError)
    assert str(error) == f"HTTP {status}: some words"
    assert error.weight == (0 if status in (429, 503, 529) else 1)
    assert error.retry_after_s is None


@pytest.mark.parametrize(
    "message",
    ["Rate limit reached: Limit 30000, Used 29000, Requested 3000.", "Limit 30000, Requested 30000.", "Limit none, Requested 5"],
)
def test_rate_limit_is_not_an_oversized_request(message: str) -> None:
    error = sort(429, wrap(message=message))
    assert isinstance(error, EndpointError)
    assert error.weight == 0


@pytest.mark.parametrize("content", [FIREWALL_PAGE, b"", b"Forbidden", b'"no"'])
def test_persistent_403_page_becomes_config_error(content: bytes) -> None:
    error = sort(403, content, headers={"retry-after": "3"})
    assert isinstance(error, EndpointError)
    assert (error.weight, error.retry_after_s) == (1, 3)
    assert str(error.if_permanent).startswith(
        "profile gemini: https://host/v1: a firewall refuses every request: check engine_options."
    )
    assert f"({error})" in str(error.if_permanent)


@pytest.mark.parametrize(
    ("status", "body", "advice"),
    [
        (401, wrap(code="invalid_api_key"), "does not accept the key: check the environment variable GEMINI_API_KEY"),
        (400, GOOGLE_WRONG_KEY, "does not accept the key: check the environment variable GEMINI_API_KEY"),
        (429, wrap(code="insufficient_quota", type="insufficient_quota"), "no credit left"),
        (402, wrap(), "no credit left"),
        (403, wrap(), "may not use model 'gemini-pro'"),
        (403, {"message": "Forbidden"}, "may not use model 'gemini-pro'"),
        (404, wrap(code="model_not_found"), "has no model 'gemini-pro': check weights and engine_options.base_url"),
        (404, b"<html><title>Not Found</title></html>", "check weights and engine_options.base_url"),
        (405, {"detail": "Method Not Allowed"}, "check weights and engine_options.base_url"),
        (304, b"", "check weights and engine_options.base_url"),
        (407, b"", "a proxy requires credentials"),
    ],
)
def test_config_error_names_the_setting(status: int, body: object, advice: str) -> None:
    error = sort(status, body)
    assert isinstance(error, ConfigError)
    assert str(error).startswith("profile gemini: https://host/v1: ")
    assert advice in str(error)
    assert f"(HTTP {status}: " in str(error)


def test_missing_key_error_names_the_option() -> None:
    error = sort(401, wrap(), Endpoint("local", "m", "http://host/v1", None))
    assert "name the variable that holds its key in engine_options.api_key_env" in str(error)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, wrap(message="image too small"), "engine_rejected"),
        (413, b"<html><title>413 Request Entity Too Large</title></html>", "engine_rejected"),
        (422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, "engine_rejected"),
        (418, b"", "engine_rejected"),
        (400, wrap(code="content_filter"), "content_filter"),
        (400, wrap(code="content_policy_violation"), "content_filter"),
        (403, OPENROUTER_FLAGGED, "content_filter"),
        (429, wrap(message=TOO_LARGE, type="tokens", code="rate_limit_exceeded"), "engine_rejected"),
    ],
)
def test_rejected_request_is_a_sample_error(status: int, body: object, code: str) -> None:
    error = sort(status, body)
    assert isinstance(error, SampleError)
    assert error.code == code
    assert f"HTTP {status}: " in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"error": {"message": "image too small"}}', "image too small"),
        (b'[{"error": {"message": "image too small"}}]', "image too small"),
        (b'{"error": "image too small"}', "image too small"),
        (b'{"message": "image too small", "code": 400}', "image too small"),
        (b'{"detail": [{"msg": "image too small"}]}', "image too small"),
        (b'{"odd": "image too small"}', "image too small"),
        (b"image too small", "image too small"),
        (b"<html><body><h1>image</h1> too\n small</body></html>", "image too small"),
        (b"<html><title>image too small</title><body>" + b"<p>x</p>" * 9000, "image too small"),
        (b"", "Bad Request"),
        (b"[]", "[]"),
        (b"[" * 100_000, "[[["),
        (b'{"error": {"message": {"why": "image too small"}}}', "image too small"),
    ],
)
def test_error_body_becomes_one_short_line(content: bytes, message: str) -> None:
    error = str(sort(400, content))
    assert message in error
    assert len(error) < 400
    assert "\n" not in error


def test_echoed_key_is_masked_at_truncation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    for status in (400, 401, 429, 500):
        for begin in range(250, 300):
            error = str(sort(status, wrap(message="x" * begin + KEY)))
            assert KEY[:6] not in error
    assert KEY[:6] not in str(classify_empty(f"no: {KEY}".encode()))
    assert quote(f"a key: {KEY}!") == "a key: ***!"


def test_error_without_generation_quotes_the_body() -> None:
    assert "does not contain a generation: 502 Bad Gateway" in str(classify_empty(PAGE.content))
    assert "contain a generation: out of luck" in str(classify_empty(b'{"error": {"message": "out of luck", "code": 502}}'))
    assert "does not contain a generation: it is empty" in str(classify_empty(b""))


def test_connection_faults_except_certificates_are_temporary() -> None:
    error = classify_exception(httpx2.ConnectError("connection refused"), ENDPOINT)
    assert isinstance(error, EndpointError)
    assert error.weight == 1
    assert str(error) == "https://host/v1 cannot be reached: ConnectError: connection refused"
    untrusted = httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] x")
    assert isinstance(classify_exception(untrusted, ENDPOINT), ConfigError)
    timeout = classify_exception(httpx2.ReadTimeout("x"), ENDPOINT)
    assert isinstance(timeout, EndpointError)
    assert timeout.weight == NO_ANSWER_WEIGHT


NOW = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "body", "wait_s"),
    [
        ({"retry-after": "7"}, "", 7),
        ({"retry-after": " 1.5 "}, "", 1.5),
        ({"retry-after": "0"}, "", 0),
        ({"retry-after": "-3"}, "", 0),
        ({"retry-after": "7", "retry-after-ms": "250"}, "", 0.25),
        (
            {"retry-after": format_datetime(NOW + timedelta(minutes=2), usegmt=True), "date": format_datetime(NOW, usegmt=True)},
            "",
            120,
        ),
        ({"retry-after": format_datetime(NOW - timedelta(days=2), usegmt=True), "date": format_datetime(NOW, usegmt=True)}, "", 0),
        ({}, '{"error": {"details": [{"retryDelay": "34.5s"}]}}', 34.5),
        ({"retry-after": "99999999"}, "", 3600),
        ({"retry-after": "1e999"}, "", None),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": "Mon, 99 Foo 2026 10:00:00 GMT"}, "", None),
        ({"retry-after": ""}, "", None),
        ({}, '{"retryDelay": "..s"}', None),
        ({}, "", None),
    ],
)
def test_wait_is_read_from_headers_and_body(headers: dict[str, str], body: str, wait_s: float | None) -> None:
    assert read_retry_after_s(headers, body) == wait_s
    error = sort(429, body.encode(), headers=headers)
    assert isinstance(error, EndpointError)
    assert error.retry_after_s == wait_s


def test_retry_date_falls_back_to_local_clock() -> None:
    assert read_retry_after_s({"retry-after": formatdate(4102444800, usegmt=True)}) == 3600
    assert read_retry_after_s({"retry-after": formatdate(0, usegmt=True), "date": "unknown"}) == 0
