"""Errors, grouped by the person or component that must act on them.

Each class has a stable ``code`` for outcomes and logs, and the ``exit_code`` of a command that ends with it. Sample faults
become outcomes. Chunk faults are exceptions. Machine faults end the process.
"""

import errno

from common.deaths import DeathCause
from common.exit_codes import NOT_ALL_OK, UNREACHABLE, USER_MUST_ACT

# The file descriptors or the memory of this machine are used up.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# The file system is unavailable and may return: an NFS server restarts, a FUSE mount is lost, Lustre has evicted this machine
# (ESHUTDOWN), or another process has a lease on the file (EAGAIN). EIO is not in the set, because it may be permanent for one
# bad file.
UNAVAILABLE = EXHAUSTED | {
    *(errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN, errno.ETIMEDOUT, errno.EAGAIN, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
}


class FleetError(Exception):
    """Base of every error class of this project."""

    code = "fleet_error"
    exit_code = NOT_ALL_OK


class ConfigError(FleetError):
    """The user must change something, so a retry does not help. The message names the file, the field and the expected value."""

    code = "config_error"
    exit_code = USER_MUST_ACT


class SampleError(FleetError):
    """One row is at fault. ``workers/execution/sample.py`` catches the error and gives the sample a ``failed`` outcome.

    ``code`` is one of ``common.sample_codes.SampleCode``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class OutOfMemory(SampleError):
    """One sample alone does not fit into the accelerator's memory. The engine keeps running, so the row is at fault."""

    code = "out_of_memory"

    def __init__(self, message: str) -> None:
        super().__init__(OutOfMemory.code, message)


class TransientError(FleetError):
    """A service is unreachable or limits the rate, so a later retry can succeed. Workers retry; commands exit with code 3."""

    code = "transient_error"
    exit_code = UNREACHABLE


class ServiceUnreachable(TransientError):
    """Redis or the store does not respond, or temporarily rejects requests."""

    code = "service_unreachable"


class EngineError(FleetError):
    """The engine crashed or stopped. The worker process gives its chunks back and exits.

    ``cause`` states whether the samples in flight may have caused it. An engine with child processes derives it from
    their exit status. An unknown cause counts as a crash.
    """

    code = "engine_error"

    def __init__(self, message: str, *, cause: DeathCause = DeathCause.CRASH) -> None:
        super().__init__(message)
        self.cause = cause


class LeaseLost(FleetError):
    """Another worker holds the chunk now, or the run was deleted. The caller stops its work on the chunk without an error."""

    code = "lease_lost"


class IntegrityError(FleetError):
    """Stored data is inconsistent, so an engineer must examine it. The message names the samples or the object."""

    code = "integrity_error"


def explain_unreadable(error: OSError, message: str) -> FleetError:
    """Return the error for a file or folder of the user: ``TransientError`` if its file system is unavailable now."""
    return TransientError(message) if error.errno in UNAVAILABLE else ConfigError(message)
