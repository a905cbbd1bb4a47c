"""Options of the ``openai`` engine, and what it takes from the environment: the key, and the address where none is given."""

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

# Only values of variables that are named like secrets are masked in logs and records (common/redaction.py).
_KEY_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*_(KEY|TOKEN|SECRET)")
_SET_BY_US = frozenset({
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream", "n"
})  # fmt: skip


class OpenAIOptions(Spec):
    """Engine options.  All limits are one worker's: two workers that share a key make twice as many requests."""

    base_url: str | None = Field(None, description="by default OPENAI_BASE_URL, else OpenAI itself")
    api_key_env: str | None = Field("OPENAI_API_KEY", description="the variable that holds the key; null: none is sent")
    concurrency: int = Field(20, gt=0, le=1000, description="requests in flight at once")
    requests_per_minute: float | None = Field(None, gt=0, description="requests start at least 60 s / this apart")
    request_delay_s: float = Field(0.0, ge=0, le=60, description="least time between the starts of two requests")
    timeout_s: float = Field(120.0, gt=0, description="for one request, from its start to the last byte of its answer")
    patience_s: float = Field(300.0, gt=0, description="how long the endpoint may answer nothing before the chunk is given back")
    image_format: Literal["png", "jpeg"] = "png"
    jpeg_quality: int = Field(95, ge=1, le=100)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    leave_out: tuple[Literal["temperature", "top_p", "seed", "stop"], ...] = Field((), description="what the endpoint refuses")
    extra_body: dict[str, Any] = Field(default_factory=dict, description="further fields of every request, as they stand")

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        return None if url is None else _check_address(url)

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str | None) -> str | None:
        if name is not None and not _KEY_VARIABLE.fullmatch(name):
            # What was found is not told: it may be the key itself.
            raise ValueError(
                "expected the name of an environment variable that ends in _KEY, _TOKEN or _SECRET, because only such are "
                "masked in logs, or null; never the key itself"
            )
        return name

    @field_validator("extra_body")
    @classmethod
    def _can_be_sent(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if ours := sorted(_SET_BY_US & extra.keys()):
            raise ValueError(f"found {ours[0]}, which every request sets itself; see generation, weights and leave_out")
        if not isinstance(extra.get("chat_template_kwargs", {}), dict):
            raise ValueError("chat_template_kwargs: expected a mapping")  # noqa: TRY004  # pydantic wants it so
        try:
            json.dumps(extra, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"cannot be written as JSON: {error}; expected text, numbers, lists and mappings") from None
        return extra

    @model_validator(mode="after")
    def _outlasts_one_request(self) -> Self:
        if self.patience_s <= self.timeout_s:
            raise ValueError(
                f"patience_s={self.patience_s:g} must be more than timeout_s={self.timeout_s:g}, or one slow answer ends all"
            )
        return self

    @property
    def interval_s(self) -> float:
        """Return the least time between the starts of two requests."""
        return max(self.request_delay_s, 60.0 / self.requests_per_minute if self.requests_per_minute else 0.0)


def find_base_url(options: OpenAIOptions) -> str:
    """Return the endpoint's address.  Raises ``ConfigError`` when ``OPENAI_BASE_URL`` holds something else."""
    if options.base_url:
        return options.base_url
    try:
        return _check_address(os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL)
    except ValueError as error:
        raise ConfigError(f"OPENAI_BASE_URL: {error}") from None


def read_key(options: OpenAIOptions, where: str) -> str | None:
    """Return the key from the environment, ``None`` if the endpoint wants none.  Raises ``ConfigError`` without showing it."""
    if options.api_key_env is None:
        return None
    key = os.environ.get(options.api_key_env, "")
    if not key:
        raise ConfigError(
            f"{where}: the environment variable {options.api_key_env} is not set; set it to the endpoint's key, name another "
            "variable in engine_options.api_key_env, or say api_key_env: null for an endpoint that wants none"
        )
    if not re.fullmatch(r"[!-~]+", key):
        # An HTTP header cannot hold it, and the message of whoever tries would quote it.
        raise ConfigError(
            f"{where}: the environment variable {options.api_key_env} holds a space, a line break or a character outside of "
            "ASCII, which no key has; set it again, for example with export and without quotes inside the value"
        )
    return key


def _check_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, brackets that do not close
        is_whole = False
    if not is_whole or parts.query or parts.fragment or "@" in parts.netloc or parts.path.endswith("/chat/completions"):
        raise ValueError(
            f"found {mask_text(url)!r}; expected the address before /chat/completions, without credentials and query, for example "
            "http://127.0.0.1:8000/v1"
        )
    return url
