"""Errors of the operating system that may be temporary: the file or address is not at fault."""

import errno

from common.errors import ConfigError, FleetError, TransientError

# This machine has no free file descriptors or no free memory.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# The file system is unavailable and may return: an NFS server restarts, a FUSE mount is lost, Lustre has evicted this machine
# (ESHUTDOWN), or another process has a lease on the file (EAGAIN). EIO is not in the set, because it may be permanent for one
# bad file.
UNAVAILABLE = EXHAUSTED | {
    *(errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN, errno.ETIMEDOUT, errno.EAGAIN, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
}


def explain_unreadable(error: OSError, message: str) -> FleetError:
    """Return the error for a file or folder of the user: ``TransientError`` if its file system is unavailable now."""
    return TransientError(message) if error.errno in UNAVAILABLE else ConfigError(message)
