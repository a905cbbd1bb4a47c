"""Load failures: the worker retries a temporary failure to download or read a model, but not a user error."""

import errno
import os
import socket
from types import SimpleNamespace

import pytest

from common.errors import ConfigError, FleetError, TransientError
from common.exit_codes import UNREACHABLE, USER_MUST_ACT
from workers.engines.load_faults import explain_load_failure


class OfflineModeIsEnabled(ConnectionError):
    """An error with the name that huggingface_hub uses."""


class AnswerError(OSError):
    """An HTTP client error with its response."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status)


def wrap(error: Exception) -> OSError:
    """Return an error of transformers whose root cause is two levels deep."""
    try:
        try:
            raise error
        except Exception as cause:
            raise FileNotFoundError("not in the cache") from cause
    except FileNotFoundError as cause:
        outer = OSError("We couldn't connect to the hub")
        outer.__cause__ = cause
        return outer


@pytest.mark.parametrize(
    "cause",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        TimeoutError("timed out"),
        AnswerError(429),
        AnswerError(503),
        *(OSError(number, os.strerror(number)) for number in (errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.EHOSTDOWN)),
    ],
    ids=str,
)
def test_outage_is_a_transient_error(cause: Exception) -> None:
    for error in (cause, wrap(cause)):
        explained = explain_load_failure(error, "weights org/model: cannot be loaded")
        assert isinstance(explained, TransientError)
        assert explained.exit_code == UNREACHABLE
        assert str(explained).startswith("weights org/model: cannot be loaded; the worker retries (")


@pytest.mark.parametrize(
    "cause",
    [
        ValueError("unknown model type"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        PermissionError(errno.EACCES, "Permission denied"),
        AnswerError(401),
        AnswerError(404),
        OfflineModeIsEnabled("HF_HUB_OFFLINE=1"),
    ],
    ids=str,
)
def test_user_error_is_a_config_error(cause: Exception) -> None:
    for error in (cause, wrap(cause)):
        explained: FleetError = explain_load_failure(error, "weights: cannot be loaded")
        assert isinstance(explained, ConfigError)
        assert explained.exit_code == USER_MUST_ACT
