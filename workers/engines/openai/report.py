"""The fields that an endpoint reports about the model that it serves, from ``GET /models``."""

from typing import Any

import httpx2

from common.errors import TransientError
from common.spec.files import check
from common.spec.models import ModelProfile
from workers.engines.openai.options import OpenAIOptions, find_base_url, read_key

# Without "created", because vllm serve sets it to the time of the request.
_FIELDS = ("id", "root", "owned_by", "max_model_len")
_TIMEOUT_S = 20.0
_UNAVAILABLE = frozenset({429, 502, 503, 504})


def read_report(profile: ModelProfile, model: str) -> dict[str, str]:
    """Return the fields that the endpoint reports for ``model``. If it does not report fields, return only the name.

    Raises ``TransientError`` if the endpoint is unavailable.
    """
    options = check(OpenAIOptions, profile.engine_options, f"profile {profile.name}: engine_options")
    key = read_key(options, f"profile {profile.name}")
    url = f"{find_base_url(options).rstrip('/')}/models"
    try:
        response = httpx2.get(
            url, headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=_TIMEOUT_S, follow_redirects=True
        )
    except httpx2.HTTPError as error:
        raise TransientError(f"profile {profile.name}: {url} does not answer: {type(error).__name__}") from error
    if response.status_code in _UNAVAILABLE:
        raise TransientError(f"profile {profile.name}: {url}: answers with status {response.status_code}")
    return {"model": model, **_find_fields(response, model)}


def _find_fields(response: httpx2.Response, model: str) -> dict[str, str]:
    try:
        listed = response.json()["data"] if response.is_success else []
        entry: dict[str, Any] = next((one for one in listed if one["id"].removeprefix("models/") == model), {})
    except (ValueError, LookupError, TypeError, AttributeError):  # not the format of OpenAI
        return {}
    return {f"model.{name}": str(entry[name]) for name in _FIELDS if entry.get(name) is not None}
