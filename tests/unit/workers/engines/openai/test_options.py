"""Options, key and address of the openai engine: accepted values and errors with advice."""

from typing import Any

import pytest

from common.errors import ConfigError
from tests.support.engines.requests import make_profile
from tests.support.servers.openai_server import KEY
from workers.engines.openai.options import DEFAULT_BASE_URL, OpenAIOptions, find_base_url, read_key
from workers.engines.registry import load_engine

ADDRESSES = [
    "127.0.0.1:8000/v1", "ftp://host/v1", "https://", "https://host:port/v1", "https://[::1/v1", "https://host/v1?key=x", "https://host/v1#x",
    "https://host/v1/chat/completions", "https://user:password@host/v1",
]  # fmt: skip


def find_error(**options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_engine(make_profile("openai", options), "some-model")
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_ulr": "x"}, "base_ulr: unknown field (found 'x'); did you mean 'base_url'"),
        ({"concurrency": 0}, "concurrency: found 0; expected: greater than 0"),
        ({"requests_per_minute": -1}, "requests_per_minute: found -1"),
        ({"request_delay_s": True}, "request_delay_s: found True"),
        ({"image_format": "webp"}, "image_format: found 'webp'; expected: 'png' or 'jpeg'"),
        ({"jpeg_quality": 101}, "jpeg_quality: found 101"),
        ({"max_tokens_field": "tokens"}, "'max_tokens' or 'max_completion_tokens'"),
        ({"leave_out": ["model"]}, "leave_out.0: found 'model'"),
        ({"patience_s": 100}, "patience_s=100 must be more than timeout_s=120"),
        ({"extra_body": {"temperature": 1}}, "extra_body: found temperature, which the engine sets itself; use generation"),
        ({"extra_body": {"stream": True}}, "extra_body: found stream"),
        ({"extra_body": {"top_k": {1, 2}}}, "extra_body: cannot be written as JSON"),
        ({"extra_body": {"chat_template_kwargs": [1]}}, "chat_template_kwargs: expected a mapping"),
        *[({"base_url": url}, "base_url: found") for url in ADDRESSES],
    ],
)
def test_option_error_names_field_and_expectation(options: dict[str, Any], message: str) -> None:
    error = find_error(**options)
    assert error.startswith("profile tried: engine_options")
    assert message in error


@pytest.mark.parametrize("value", [KEY, "openai_api_key", "MY_KEYS", "", "A KEY"])
def test_api_key_env_must_be_a_variable_name(value: str) -> None:
    """Logs mask the value of a variable whose name ends in ``_KEY``. The key itself is rejected and not shown."""
    error = find_error(api_key_env=value)
    assert "expected the name of an environment variable that ends in _KEY" in error
    assert KEY not in error


def test_base_url_prefers_options_over_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert find_base_url(OpenAIOptions()) == DEFAULT_BASE_URL
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gateway:4000/v1")
    assert find_base_url(OpenAIOptions()) == "http://gateway:4000/v1"
    assert find_base_url(OpenAIOptions(base_url="http://127.0.0.1:8000/v1")) == "http://127.0.0.1:8000/v1"


def test_error_in_environment_url_hides_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"https://me:{KEY}@host/v1")
    with pytest.raises(ConfigError, match=r"OPENAI_BASE_URL: found .*expected the address before /chat/completions") as caught:
        find_base_url(OpenAIOptions())
    assert KEY not in str(caught.value)


def test_missing_key_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "")
    with pytest.raises(ConfigError, match=r"profile p: the environment variable GEMINI_API_KEY is not set.*api_key_env: null"):
        read_key(OpenAIOptions(api_key_env="GEMINI_API_KEY"), "profile p")
    assert read_key(OpenAIOptions(api_key_env=None), "profile p") is None


@pytest.mark.parametrize("damage", ["\n", "\r\n", " ", "\u00fc", "\u201d", "\0"])
def test_invalid_key_is_rejected_without_showing_it(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"OPENAI_API_KEY": KEY + damage})
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds a space, a line break") as caught:
        read_key(OpenAIOptions(), "profile p")
    assert KEY not in str(caught.value)
