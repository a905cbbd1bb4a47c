"""Classify the errors of an endpoint: the sample fails, the user must change something, or the request is retried.

=====================================================  ===================================================================
the endpoint responds with                             result
=====================================================  ===================================================================
429, 500 and above, 408, 409, 425, no connection,      ``EndpointError``: the request is retried
no response in time, or 403 with a web page, which
comes from a firewall
401, 402, 403, 404, 405, 407, no credit left, or       ``ConfigError`` that names the setting to check
a certificate of an unknown authority
a content filter, moderation                           ``SampleError("content_filter")``
400, 413, 422, 500 with words about the context        ``SampleError("too_long")``, see ``overrun.py``
400, 413, 422, any other status, and 429 for more      ``SampleError("engine_rejected")`` with the endpoint's message
tokens than the limit of a whole minute
=====================================================  ===================================================================

The codes in the body take precedence over the status: OpenAI sends 429 also for an account without credit, Gemini 400 for a
wrong key, OpenRouter 403 for a flagged input. Every quoted text is masked, because endpoints echo keys. No I/O.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import httpx2

from common.errors import ConfigError, SampleError
from common.redaction import mask_text
from workers.engines.openai.overrun import classify_overrun

_MAX_QUOTE_CHARACTERS = 300
_MAX_RETRY_AFTER_S = 3600.0  # a longer pause that an endpoint requests is shortened to this

NO_ANSWER_WEIGHT = 2  # weight of a request that did not get a response in time

_TRANSIENT = frozenset({408, 409, 425, 429})
# Servers refuse a request that is too long with one of these statuses.
_OVERRUN = frozenset({400, 413, 422, 500})
_OVERLOAD = frozenset({429, 503, 529})
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_BAD_KEY = frozenset({"invalid_api_key", "API_KEY_INVALID"})
_FILTERED = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})


class EndpointError(Exception):
    """An error that is retried: the endpoint is unavailable, overloaded, or sent a response without a generation.

    ``retry_after_s`` is the pause that the endpoint requests. ``weight`` states how strongly the error indicates that the request
    itself is at fault if the endpoint answers other requests. It is 0 for a rate limit or an overload, 1 for a quick error, and 2
    for a missing response, which takes much longer. ``if_permanent`` is the error to raise if the endpoint sends this error for
    all requests until the patience ends.
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, weight: int = 1, if_permanent: ConfigError | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.weight = weight
        self.if_permanent = if_permanent


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The names that error messages use for an endpoint."""

    profile: str
    model: str
    base_url: str
    key_variable: str | None

    @property
    def key_advice(self) -> str:
        if self.key_variable is None:
            return "name the variable that holds its key in engine_options.api_key_env"
        return f"check the environment variable {self.key_variable}"


def classify_exception(error: Exception, endpoint: Endpoint) -> EndpointError | ConfigError:
    """Return the fleet's error for an exception of the HTTP client."""
    if isinstance(error, httpx2.TimeoutException):
        return EndpointError(f"{endpoint.base_url} did not answer in time", weight=NO_ANSWER_WEIGHT)
    cause = quote(f"{type(error).__name__}: {error}")
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        advice = "its certificate is not trusted: check engine_options.base_url and SSL_CERT_FILE"
        return _make_config_error(endpoint, cause, advice)
    return EndpointError(f"{endpoint.base_url} cannot be reached: {cause}")


def classify_status(response: httpx2.Response, endpoint: Endpoint) -> EndpointError | ConfigError | SampleError:
    """Return the fleet's error for a response whose status is not 2xx."""
    status, text = response.status_code, response.text
    retry_after_s = read_retry_after_s(response.headers, text)
    error = _read_error(text)
    codes = set(_find_codes(error))
    message = f"HTTP {status}: {quote(_find_message(error) or _strip_page(text)) or response.reason_phrase}"
    if codes & _FILTERED or _is_flagged(error):
        return SampleError("content_filter", f"the endpoint's filter refused the request: {message}")
    if status in _OVERRUN and (overrun := classify_overrun(error, codes, _find_message(error), message)):
        return overrun
    if status == 402 or codes & _NO_CREDIT:
        return _make_config_error(endpoint, message, f"the account has no credit left: {endpoint.key_advice}, or add credit")
    if status == 401 or codes & _BAD_KEY:
        return _make_config_error(endpoint, message, f"it does not accept the key: {endpoint.key_advice}")
    if status == 403 and not error:
        # This is not a response of the API. A firewall refuses requests that look like an attack, such as SQL or an HTML table.
        advice = "a firewall refuses every request: check engine_options.base_url, HTTPS_PROXY and the access of this network"
        if_permanent = _make_config_error(endpoint, message, advice)
        return EndpointError(message, retry_after_s=retry_after_s, if_permanent=if_permanent)
    if status == 403:
        advice = f"the key may not use model {endpoint.model!r}: {endpoint.key_advice} and weights"
        return _make_config_error(endpoint, message, advice)
    if status in (404, 405) or status < 400:
        advice = f"it has no model {endpoint.model!r}: check weights and engine_options.base_url"
        return _make_config_error(endpoint, message, advice)
    if status == 407:
        return _make_config_error(endpoint, message, "a proxy requires credentials: check HTTPS_PROXY and NO_PROXY")
    if (status in _TRANSIENT or status >= 500) and not (status == 429 and _exceeds_minute_limit(error)):
        return EndpointError(message, retry_after_s=retry_after_s, weight=0 if status in _OVERLOAD else 1)
    return SampleError("engine_rejected", f"the endpoint refused the request: {message}")


def classify_empty(content: bytes) -> EndpointError | SampleError:
    """Return the fleet's error for a 2xx response without a generation: an error, a web page or an empty body."""
    text = content.decode(errors="replace")
    error = _read_error(text)
    message = _find_message(error) or _strip_page(text)
    if overrun := classify_overrun(error, set(_find_codes(error)), message, quote(message)):
        return overrun
    return EndpointError(f"the endpoint's response does not contain a generation: {quote(message) or 'it is empty'}")


def read_retry_after_s(headers: Mapping[str, str], body: str = "") -> float | None:
    """Return the pause that the endpoint requests, or ``None`` if it does not request one.

    ``Retry-After`` contains seconds or a date (RFC 9110, 10.2.3). A date is relative to the server's clock, if the response has a
    ``Date``. Azure sends ``retry-after-ms``, Google ``"retryDelay": "34s"`` in the body.
    """
    delay = re.search(r'"retryDelay":\s*"([0-9.]+)s"', body)
    asked = (
        _read_number(headers.get("retry-after-ms"), 0.001),
        _read_number(headers.get("retry-after"), 1.0),
        _read_date(headers.get("retry-after"), headers.get("date")),
        _read_number(delay.group(1), 1.0) if delay else None,
    )
    pause_s = next((one for one in asked if one is not None), None)
    return None if pause_s is None else min(max(pause_s, 0.0), _MAX_RETRY_AFTER_S)


def quote(text: str) -> str:
    """Return an endpoint's text as one short line without secrets.

    The text is masked before it is cut, because half a key is not recognized as a key.
    """
    line = " ".join(mask_text(text).split())
    return line if len(line) <= _MAX_QUOTE_CHARACTERS else line[: _MAX_QUOTE_CHARACTERS - 2] + " …"


def _make_config_error(endpoint: Endpoint, message: str, advice: str) -> ConfigError:
    return ConfigError(f"profile {endpoint.profile}: {endpoint.base_url}: {advice} ({message})")


def _read_error(text: str) -> Mapping[str, Any]:
    """Return the error object of a body, or an empty object. Google puts it into a list, FastAPI under ``detail``."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return {}
    error = body.get("error") or body.get("detail") or body
    return error if isinstance(error, dict) else {"message": str(error)}


def _find_message(error: Mapping[str, Any]) -> str:
    message = error.get("message") or error or ""
    return message if isinstance(message, str) else json.dumps(message)


def _find_codes(error: Mapping[str, Any]) -> Iterator[str]:
    yield from (str(error[name]) for name in ("code", "type", "status") if name in error)
    details = error.get("details")
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict):
            yield str(detail.get("reason"))


def _is_flagged(error: Mapping[str, Any]) -> bool:
    metadata = error.get("metadata")
    return isinstance(metadata, dict) and "flagged_input" in metadata


def _exceeds_minute_limit(error: Mapping[str, Any]) -> bool:
    """Return whether OpenAI reports a request larger than the limit of a whole minute. Such a request fails after any wait."""
    found = re.search(r"\bLimit (\d+), Requested (\d+)", _find_message(error))
    return found is not None and int(found[2]) > int(found[1])


def _strip_page(text: str) -> str:
    """Return a web page's title, or the text without its markup."""
    title = re.search(r"<title>(.*?)</title>", text, re.DOTALL | re.IGNORECASE)
    return title.group(1) if title else re.sub(r"<[^<>]*>", " ", text)


def _read_number(text: str | None, unit_s: float) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number * unit_s if math.isfinite(number) else None


def _read_date(text: str | None, now: str | None) -> float | None:
    try:
        until_s = parsedate_to_datetime(text or "").timestamp()
    except (ValueError, OverflowError):
        return None
    try:
        return until_s - parsedate_to_datetime(now or "").timestamp()
    except (ValueError, OverflowError):
        return until_s - time()
