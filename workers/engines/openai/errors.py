"""What an endpoint's refusal means: the sample's fault, the user's, or nobody's.  Pure.

=======================================  =======================================================================
the endpoint says                        becomes
=======================================  =======================================================================
429, 500 and above, 408, 409, 425, no    ``EndpointFault``: tried again
connection, no answer in time, 403 with
a page, which is a firewall's
401, 402, 403, 404, 405, 407, no credit  ``ConfigError`` that names what to look at
left, a certificate that nobody trusts
content filter, moderation               ``SampleError("content_filter")``
400, 413, 422 and the rest, and a 429    ``SampleError("engine_rejected")`` with what the endpoint said
for more tokens than a minute's limit
=======================================  =======================================================================

OpenAI says 429 also for an account without credit, Gemini 400 for a wrong key, OpenRouter 403 for a flagged input: so the
codes in the body count more than the status.  All that is quoted is masked, because endpoints echo keys.
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

_LONGEST_QUOTE = 300  # characters
_LONGEST_WAIT_S = 3600.0  # whatever the endpoint asks for, it is asked again within the hour

SILENCE = 2  # the weight of a request that got no answer in time

_TRANSIENT = frozenset({408, 409, 425, 429})
_OVERLOAD = frozenset({429, 503, 529})
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_BAD_KEY = frozenset({"invalid_api_key", "API_KEY_INVALID"})
_FILTERED = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})


class EndpointFault(Exception):
    """Nobody's fault as yet: the endpoint is away, overloaded, or answered nonsense.  ``wait_s`` is the pause it asks for.

    ``weight`` is how much it says about the request, should others be answered meanwhile: 0 for a limit or an overload, and
    for silence twice as much as for a quick error, because it costs so much more time.  ``if_lasting`` is the user's fault
    that it is after all, should the endpoint do so to everybody until patience ends.
    """

    def __init__(
        self, message: str, *, wait_s: float | None = None, weight: int = 1, if_lasting: ConfigError | None = None
    ) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.weight = weight
        self.if_lasting = if_lasting


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom we ask, as messages to the user name it."""

    profile: str
    model: str
    base_url: str
    key_variable: str | None

    @property
    def key_advice(self) -> str:
        if self.key_variable is None:
            return "name the variable that holds its key in engine_options.api_key_env"
        return f"look at the environment variable {self.key_variable}"


def sort_error(error: Exception, endpoint: Endpoint) -> EndpointFault | ConfigError:
    """Return what an error of the HTTP client means for us."""
    if isinstance(error, httpx2.TimeoutException):
        return EndpointFault(f"{endpoint.base_url} did not answer in time", weight=SILENCE)
    cause = quote(f"{type(error).__name__}: {error}")
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        return _blame_user(endpoint, cause, "its certificate is not trusted: look at engine_options.base_url and SSL_CERT_FILE")
    return EndpointFault(f"{endpoint.base_url} cannot be reached: {cause}")


def sort_empty(content: bytes) -> EndpointFault:
    """Return the fault of an answer of status 200 without a generation in it: an error, a web page, nothing."""
    text = content.decode(errors="replace")
    said = _find_message(_read_error(text)) or _strip_page(text)
    return EndpointFault(f"the endpoint's answer holds no generation: {quote(said) or 'it is empty'}")


def read_wait_s(headers: Mapping[str, str], body: str = "") -> float | None:
    """Return for how long the endpoint asks to be left alone, ``None`` if it does not say.

    ``Retry-After`` holds seconds or a date (RFC 9110, 10.2.3), which is read by the server's own clock; ``retry-after-ms`` is
    Azure's, ``"retryDelay": "34s"`` in the body Google's.
    """
    delay = re.search(r'"retryDelay":\s*"([0-9.]+)s"', body)
    asked = (
        _read_number(headers.get("retry-after-ms"), 0.001),
        _read_number(headers.get("retry-after"), 1.0),
        _read_date(headers.get("retry-after"), headers.get("date")),
        _read_number(delay.group(1), 1.0) if delay else None,
    )
    wait_s = next((one for one in asked if one is not None), None)
    return None if wait_s is None else min(max(wait_s, 0.0), _LONGEST_WAIT_S)


def quote(text: str) -> str:
    """Return what an endpoint said as one short line without secrets; masked first, because half a key is not recognised."""
    line = " ".join(mask_text(text).split())
    return line if len(line) <= _LONGEST_QUOTE else line[: _LONGEST_QUOTE - 2] + " …"


def sort_status(response: httpx2.Response, endpoint: Endpoint) -> EndpointFault | ConfigError | SampleError:
    status, text = response.status_code, response.text
    wait_s = read_wait_s(response.headers, text)
    error = _read_error(text)
    codes = set(_find_codes(error))
    said = f"HTTP {status}: {quote(_find_message(error) or _strip_page(text)) or response.reason_phrase}"
    if codes & _FILTERED or _is_flagged(error):
        return SampleError("content_filter", f"the endpoint's filter refused the request: {said}")
    if status == 402 or codes & _NO_CREDIT:
        return _blame_user(endpoint, said, f"the account has no credit left: {endpoint.key_advice}, or pay")
    if status == 401 or codes & _BAD_KEY:
        return _blame_user(endpoint, said, f"it does not accept the key: {endpoint.key_advice}")
    if status == 403 and not error:
        # No answer of the API.  A firewall before it refuses whoever writes like an attacker: SQL, a table in HTML.
        advice = "a page refuses every request: look at engine_options.base_url, HTTPS_PROXY and who may go there from here"
        return EndpointFault(said, wait_s=wait_s, if_lasting=_blame_user(endpoint, said, advice))
    if status == 403:
        return _blame_user(endpoint, said, f"the key may not use model {endpoint.model!r}: {endpoint.key_advice} and weights")
    if status in (404, 405) or status < 400:
        return _blame_user(endpoint, said, f"it has no model {endpoint.model!r}: look at weights and engine_options.base_url")
    if status == 407:
        return _blame_user(endpoint, said, "a proxy wants credentials: look at HTTPS_PROXY and NO_PROXY")
    if (status in _TRANSIENT or status >= 500) and not (status == 429 and _is_beyond_limit(error)):
        return EndpointFault(said, wait_s=wait_s, weight=0 if status in _OVERLOAD else 1)
    return SampleError("engine_rejected", f"the endpoint refused the request: {said}")


def _blame_user(endpoint: Endpoint, said: str, advice: str) -> ConfigError:
    return ConfigError(f"profile {endpoint.profile}: {endpoint.base_url}: {advice} ({said})")


def _read_error(text: str) -> Mapping[str, Any]:
    """Return the error object of a body, empty if there is none.  Google puts it into a list, FastAPI under ``detail``."""
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


def _is_beyond_limit(error: Mapping[str, Any]) -> bool:
    """Return whether a request is larger than the limit of a whole minute, as OpenAI words it: no waiting lets it pass."""
    told = re.search(r"\bLimit (\d+), Requested (\d+)", _find_message(error))
    return told is not None and int(told[2]) > int(told[1])


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
