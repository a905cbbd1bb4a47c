"""The reasons why a model does not load: an unavailable service or file system, or a mistake of the user."""

import socket
from collections.abc import Iterator

from common.errors import UNAVAILABLE, ConfigError, FleetError, TransientError

_RETRIED_STATUSES = (408, 429)
_SERVER_FAULT = 500


def explain_load_failure(error: Exception, message: str) -> FleetError:
    """Return a ``TransientError`` if the download or the file system failed temporarily, else a ``ConfigError``."""
    outage = next(filter(_is_outage, _list_causes(error)), None)
    if outage is None:
        return ConfigError(message)
    return TransientError(f"{message}; the worker retries ({type(outage).__name__}: {outage})")


def _list_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_outage(error: BaseException) -> bool:
    if type(error).__name__ == "OfflineModeIsEnabled":  # a ConnectionError of huggingface_hub, set by HF_HUB_OFFLINE
        return False
    if isinstance(error, socket.gaierror | ConnectionError | TimeoutError):
        return True
    status = getattr(getattr(error, "response", None), "status_code", 0)  # of an HTTP client's error
    if isinstance(status, int) and (status in _RETRIED_STATUSES or status >= _SERVER_FAULT):
        return True
    return isinstance(error, OSError) and error.errno in UNAVAILABLE
