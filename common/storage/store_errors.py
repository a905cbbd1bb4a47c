"""The errors of a store: an object does not exist, the store cannot be used now, or the user must change something."""

import errno
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)

from common.errors import ConfigError, FleetError, IntegrityError, ServiceUnreachable, TransientError
from common.redaction import mask_text

_USERS_TO_FIX = (ValueError, InvalidPathError, NotSupportedError, UnauthenticatedError, UnknownConfigurationKeyError)
_FULL = re.compile(r"No space left on device|quota exceeded|StorageFull|status code: 507", re.IGNORECASE)
_UNREACHABLE = re.compile(r"error sending request|body error|timed out|timeout|status code: (408|409|429|5\d\d)", re.IGNORECASE)
# The credentials are wrong. Source: the list of error codes of Amazon S3.
_CREDENTIALS = re.compile(r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|AccountProblem")
_CLOSED = re.compile(r"status code: 403|AccessDenied|Permission denied|Read-only file system|Stale file handle|not connected")
_REFUSED = re.compile(r"NoSuchBucket|builder error|redirect|status code: 4(?!03|08|09|29)\d\d")
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w+)")  # an error of rustls, in obstore's debug output
_CERTIFICATE_OUT_OF_DATE = ("Expired", "ExpiredContext", "NotValidYet", "NotValidYetContext")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_WRONG_PATH = {errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
_OUT_OF_RANGE = re.compile(r"range was invalid|status code: 416", re.IGNORECASE)


class MissingObject(FleetError):
    """An object with this key does not exist. The caller decides whether that is an error."""

    code = "missing_object"


class StoreFull(ServiceUnreachable):
    """The store has no space for the object. A worker retries until space is available; a command ends with exit code 3."""

    code = "store_full"


class StoreClosed(ServiceUnreachable):
    """The store forbids the operation now: it is read-only, its folder is missing, or permission is missing.

    The fault may end without a change of this configuration (a disk is mounted, a policy is corrected). Therefore a worker
    retries, and a command ends with exit code 3.
    """

    code = "store_closed"


@contextmanager
def translating(where: str) -> Iterator[None]:
    """Translate obstore's errors into the error classes of ``common.errors``."""
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise _translate(error, where) from error


def check_folder(folder: Path) -> None:
    """Raise ``StoreClosed`` if a store's folder does not exist now.

    obstore would create the folder. If the file system of the folder is not mounted, the new folder would be on another disk.
    """
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError:
        raise StoreClosed(
            f"store {folder}: the folder does not exist; nothing is lost. If it has objects, mount its file system or correct "
            "FLEET_STORE_URL. If it is a new store, create the folder; `producer enqueue` creates it if Redis does not have runs"
        ) from None
    except OSError as error:
        raise translate_folder_error(error, f"store {folder}: cannot read this folder") from error
    if not is_folder:
        raise ConfigError(f"store {folder}: found a file; expected a folder")


def translate_folder_error(error: OSError, what: str) -> FleetError:
    """Return the error for a store folder that cannot be created or read."""
    message = f"{what}: {error.strerror}"
    if error.errno in _NO_SPACE:
        return StoreFull(message)
    return ConfigError(message) if error.errno in _WRONG_PATH else StoreClosed(message)


def _translate(error: Exception, where: str) -> FleetError:
    message = first_line(error)
    if certificate := _CERTIFICATE.search(str(error)):
        return _explain_certificate(certificate[1], where)
    if "169.254.169.254" in message:
        return ConfigError(f"{where}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY ({message})")
    if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in message:
        return MissingObject(f"{where}: no such object")
    if _FULL.search(message):
        return StoreFull(f"{where}: the store is full; make room. Nothing is lost ({message})")
    if _OUT_OF_RANGE.search(message):
        return IntegrityError(f"{where}: the object ends before the requested range ({message})")
    if isinstance(error, _USERS_TO_FIX) or _REFUSED.search(message) or _CREDENTIALS.search(message):
        return ConfigError(f"{where}: the store refuses the request: {message}")
    if isinstance(error, PermissionDeniedError) or _CLOSED.search(message):
        return StoreClosed(f"{where}: the store refuses the operation; nothing is lost ({message})")
    if _UNREACHABLE.search(message):
        return ServiceUnreachable(f"{where}: the store does not answer: {message}")
    return TransientError(f"{where}: {message}")


def _explain_certificate(fault: str, where: str) -> FleetError:
    if fault in _CERTIFICATE_OUT_OF_DATE:
        return ServiceUnreachable(
            f"{where}: the certificate of the store is out of date ({fault}); renew it, or correct the clock of this machine"
        )
    return ConfigError(f"{where}: the certificate of the store cannot be verified ({fault}); check the endpoint and its authority")


def first_line(error: Exception) -> str:
    """Return obstore's message without its debug output, on one line of at most 400 characters."""
    message = " ".join(str(error).partition("\n\nDebug source:")[0].split())
    return mask_text(message if len(message) <= 400 else message[:397] + "...")
