"""Options of the ``openai`` engine. It reads the key from the environment, and the address if the options do not set it."""

import json
import os
import re
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from common.errors import ConfigError
from common.redaction import mask_text
from common.spec.models import Spec

DEFAULT_BASE_URL = "https://api.openai.com/v1"

# Logs and records mask only the values of variables whose names look like a secret's (common/redaction.py).
_KEY_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*_(KEY|TOKEN|SECRET)")
_RESERVED_FIELDS = frozenset({
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream", "n"
})  # fmt: skip


class OpenAIOptions(Spec):
    """The engine openai sends requests to an API. All limits apply to one worker: two workers with one key send twice as many."""

    base_url: str | None = Field(None, description="address of the endpoint; by default, OPENAI_BASE_URL, else OpenAI")
    api_key_env: str | None = Field("OPENAI_API_KEY", description="environment variable that holds the key; null sends no key")
    concurrency: int = Field(20, gt=0, le=1000, description="requests in flight at once")
    requests_per_minute: float | None = Field(None, gt=0, description="requests start at least 60 s / this number apart")
    request_delay_s: float = Field(0.0, ge=0, le=60, description="least time between the starts of two requests")
    timeout_s: float = Field(120.0, gt=0, description="for one request, from its start to the last byte of the response")
    patience_s: float = Field(300.0, gt=0, description="time without an answer to any request until the chunk is released")
    image_format: Literal["png", "jpeg"] = Field("png", description="format in which images are sent")
    jpeg_quality: int = Field(95, ge=1, le=100, description="quality of JPEG images")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="field of the request that holds max_tokens"
    )
    leave_out: tuple[Literal["temperature", "top_p", "seed", "stop"], ...] = Field(
        (), description="fields that the endpoint refuses"
    )
    extra_body: dict[str, Any] = Field(default_factory=dict, description="further fields of every request, sent unchanged")

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        return None if url is None else _check_address(url)

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str | None) -> str | None:
        if name is not None and not _KEY_VARIABLE.fullmatch(name):
            # The message does not show the value, because it may be the key itself.
            raise ValueError(
                "expected the name of an environment variable that ends in _KEY, _TOKEN or _SECRET, because logs mask only such "
                "variables, or null; not the key itself"
            )
        return name

    @field_validator("extra_body")
    @classmethod
    def _can_be_sent(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if reserved := sorted(_RESERVED_FIELDS & extra.keys()):
            raise ValueError(f"found {reserved[0]}, which the engine sets itself; use generation, weights or leave_out instead")
        if not isinstance(extra.get("chat_template_kwargs", {}), dict):
            raise ValueError("chat_template_kwargs: expected a mapping")  # noqa: TRY004  # pydantic turns only a ValueError into a validation error
        try:
            json.dumps(extra, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"cannot be written as JSON: {error}; expected text, numbers, lists and mappings") from None
        return extra

    @model_validator(mode="after")
    def _outlasts_one_request(self) -> Self:
        if self.patience_s <= self.timeout_s:
            raise ValueError(
                f"patience_s={self.patience_s:g} must be more than timeout_s={self.timeout_s:g}, because otherwise a single slow "
                "answer would end the patience"
            )
        return self

    @property
    def interval_s(self) -> float:
        """Return the least time between the starts of two requests."""
        return max(self.request_delay_s, 60.0 / self.requests_per_minute if self.requests_per_minute else 0.0)


def find_base_url(options: OpenAIOptions) -> str:
    """Return the endpoint's address. Raises ``ConfigError`` if it comes from ``OPENAI_BASE_URL`` and is invalid."""
    if options.base_url:
        return options.base_url
    try:
        return _check_address(os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL)
    except ValueError as error:
        raise ConfigError(f"OPENAI_BASE_URL: {error}") from None


def read_key(options: OpenAIOptions, where: str) -> str | None:
    """Return the key from the environment, or ``None`` if ``api_key_env`` is null.

    Raises ``ConfigError`` if the key is missing or invalid. The message does not show the key.
    """
    if options.api_key_env is None:
        return None
    key = os.environ.get(options.api_key_env, "")
    if not key:
        raise ConfigError(
            f"{where}: the environment variable {options.api_key_env} is not set; set it to the endpoint's key, name another "
            "variable in engine_options.api_key_env, or write api_key_env: null for an endpoint that needs no key"
        )
    if not re.fullmatch(r"[!-~]+", key):
        # An HTTP header cannot contain such a key, and the error of the HTTP client would quote it.
        raise ConfigError(
            f"{where}: the environment variable {options.api_key_env} holds a space, a line break or a character outside "
            "ASCII, which is not valid in a key; set it again, for example with export and without quotes inside the value"
        )
    return key


def _check_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # the port is not a number, or a bracket is not closed
        is_whole = False
    if not is_whole or parts.query or parts.fragment or "@" in parts.netloc or parts.path.endswith("/chat/completions"):
        raise ValueError(
            f"found {mask_text(url)!r}; expected the address before /chat/completions, without credentials and query, for example "
            "http://127.0.0.1:8000/v1"
        )
    return url
