"""The store: one root, a local folder or a prefix in object storage, and the few operations that we trust on both.

A key is a path of segments joined by ``/``; on local disk the segments are folders. An object is seen whole or not at all.

An obstore client hangs in a forked child, so open a store after a fork and never while a module is imported.
"""

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import LocalStore, from_url

from common.errors import ConfigError, FleetError, IntegrityError, ServiceUnreachable, TransientError
from common.exit_codes import USER_MUST_ACT
from common.redaction import mask_text

if TYPE_CHECKING:  # obstore has these names in its stubs alone
    from obstore import WritableFile
    from obstore.store import ObjectStore

KNOWN_SCHEMES = ("file", "s3", "gs", "az")

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_WRITE_BUFFER_BYTES = 8 * 2**20  # S3 wants at least 5 MiB in each part of a multipart upload
_LIST_PAGE = 1000
_CREATE_TRIES = 3
_LIST_TRIES = 3
_RETRIES = 10_000  # the store's patience is to end them: obstore's default of 10 would, within 2 s or so
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=0.1), timedelta(seconds=2)
_USERS_TO_FIX = (
    ValueError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
_FULL = re.compile(r"No space left on device|quota exceeded|StorageFull|status code: 507", re.IGNORECASE)
_UNREACHABLE = re.compile(r"error sending request|body error|timed out|timeout|status code: (408|409|429|5\d\d)", re.IGNORECASE)
_REFUSED = re.compile(r"NoSuchBucket|builder error|redirect|status code: 4(?!08|09|29)\d\d|Permission denied|Read-only file system")
_OUT_OF_RANGE = re.compile(r"range was invalid|status code: 416", re.IGNORECASE)


class MissingObject(FleetError):
    """No object has this key. Whether that is a fault is for the caller to say."""

    code = "missing_object"


class StoreFull(TransientError):
    """There is no room for the object. A worker tries again until somebody makes room; a command ends with exit code 2."""

    code = "store_full"
    exit_code = USER_MUST_ACT


@dataclass(frozen=True, slots=True)
class StoreProbe:
    """What ``Store.probe`` found: every check passed at ``url`` (credentials masked) and took ``duration_s`` in all."""

    url: str
    duration_s: float


class Writer:
    """Takes the bytes of one object, piece by piece. Made by ``Store.open_writer``."""

    def __init__(self, stream: "WritableFile", where: str) -> None:
        self._stream = stream
        self._where = where

    def write(self, content: bytes) -> None:
        """Append ``content``; full buffers of 8 MiB are sent at once."""
        with _speaking(self._where):
            self._stream.write(content)


class Store:
    """Objects under one root. Safe to share among threads; made by ``open_store``.

    Every operation rides out transient errors with backoff for the store's ``patience_s``, then raises
    ``ServiceUnreachable``. Where the user must act it raises ``ConfigError`` (no permission, read-only, no such bucket, a bad
    key) or ``StoreFull``.
    """

    def __init__(self, client: "ObjectStore", url: str) -> None:
        self._client = client
        self.url = mask_text(url)

    def put_new(self, key: str, content: bytes) -> bool:
        """Create the object if none has this key. Return True if we won: of any number of racers exactly one does.

        False may also mean that an earlier try of our own arrived after all: read the object to know what it holds.
        """
        for _ in range(_CREATE_TRIES):
            with self._speaking(key), suppress(AlreadyExistsError):
                obstore.put(self._client, key, content, mode="create")
                return True
            # S3 also answers a race with 409 Conflict, which obstore reports in the same way, before anyone has won.
            if self.exists(key):
                return False
        raise TransientError(f"{self._where(key)}: the store says that the object exists, and then that it does not")

    def put(self, key: str, content: bytes) -> None:
        """Write the object, in place of any other with this key."""
        with self._speaking(key):
            obstore.put(self._client, key, content)

    def get(self, key: str) -> bytes:
        """Return the whole object. Raises ``MissingObject``."""
        with self._speaking(key):
            return obstore.get(self._client, key).bytes().to_bytes()

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``.

        Raises ``MissingObject``, or ``IntegrityError`` where the object ends before that.
        """
        if length == 0:
            return b""  # obstore refuses empty ranges
        with self._speaking(key):
            content = obstore.get_range(self._client, key, start=offset, length=length).to_bytes()
        if len(content) != length:
            raise IntegrityError(f"{self._where(key)}: expected {length} bytes from offset {offset}, found {len(content)}")
        return content

    def exists(self, key: str) -> bool:
        """Say whether an object has this key."""
        try:
            with self._speaking(key):
                obstore.head(self._client, key)
        except MissingObject:
            return False
        return True

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below the folder ``prefix``, in no promised order, while further pages are still to be read.

        ``runs/a`` and ``runs/a/`` both mean that folder and never ``runs/ab``.
        """
        last: str | None = None
        for tries_left in reversed(range(_LIST_TRIES)):
            try:
                for key in self._list_after(last, prefix):
                    yield key
                    last = key
            except ServiceUnreachable:
                # obstore does not ask again for a page that was cut. Object storage lists in the order of its keys, so we can.
                if not tries_left or isinstance(self._client, LocalStore):
                    raise
            else:
                return

    def _list_after(self, last: str | None, prefix: str) -> Iterator[str]:
        with self._speaking(prefix):
            pages = iter(obstore.list(self._client, prefix or None, offset=last, chunk_size=_LIST_PAGE))
        while True:
            with self._speaking(prefix):
                page = next(pages, None)
            if page is None:
                return
            for entry in page:
                yield entry["path"]

    @contextmanager
    def open_writer(self, key: str) -> Iterator[Writer]:
        """Write one object in pieces. It appears, in place of any other, when the block ends, and never after an exception."""
        with self._speaking(key):
            stream = obstore.open_writer(self._client, key, buffer_size=_WRITE_BUFFER_BYTES)
        try:
            yield Writer(stream, self._where(key))
        except BaseException as error:
            with suppress(BaseError):  # the block's own error is the one to hear of
                stream.__exit__(type(error), error, error.__traceback__)
            raise
        with self._speaking(key):
            stream.close()

    def probe(self) -> StoreProbe:
        """Write an object, read it back, create it twice and delete it, under ``.probe/``.

        Raises ``ConfigError`` if the store creates an object that exists: some S3 servers ignore the condition silently,
        and there two workers could both believe that their part is the chunk's.
        """
        started = time.monotonic()
        key, content = f".probe/{secrets.token_hex(8)}", secrets.token_bytes(64)
        created = self.put_new(key, content)
        try:
            if not created or self.get(key) != content:
                raise ConfigError(f"{self.url}: what was written could not be read back; check the store")
            if self.put_new(key, b"second"):
                raise ConfigError(
                    f"{self.url}: this store ignores conditional puts (If-None-Match: *): it created an object that already "
                    "existed. Two workers could overwrite each other's results; use a store that honours the condition"
                )
        finally:
            with suppress(BaseError, FileNotFoundError):  # we never delete otherwise: a store that forbids it will do
                obstore.delete(self._client, key)
        return StoreProbe(self.url, time.monotonic() - started)

    def _where(self, key: str) -> str:
        return f"{self.url}: {key!r}"

    def _speaking(self, key: str) -> AbstractContextManager[None]:
        return _speaking(self._where(key))


def open_store(url: str, *, patience_s: float = 10.0) -> Store:
    """Open the store at ``url``: a path, ``file://`` and a path, ``s3://bucket/prefix``, ``gs://`` or ``az://``.

    A local folder is made if it is missing. Credentials and endpoints come from the environment, for S3 from ``AWS_*``;
    plain http is allowed only where the endpoint says ``http://``. ``patience_s`` bounds the retries of one operation.
    Raises ``ConfigError``; whether the store answers is for ``Store.probe`` to say.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() == "file":
        return _open_folder(Path(rest if separator else url).expanduser().absolute())
    if scheme.lower() not in KNOWN_SCHEMES:
        known = ", ".join(f"{name}://" for name in KNOWN_SCHEMES)
        raise ConfigError(f"store {mask_text(url)}: unknown scheme {scheme!r}; expected a path or one of {known}")
    try:
        client = from_url(
            url,
            client_options={"allow_http": _endpoint_is_http(), "connect_timeout": "5s", "read_timeout": "20s", "timeout": "120s"},
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=patience_s),
                "backoff": {"init_backoff": _FIRST_PAUSE, "max_backoff": _LONGEST_PAUSE, "base": 2},
            },
        )
    except (BaseError, ValueError) as error:
        raise ConfigError(f"store {mask_text(url)}: {_first_line(error)}") from error
    return Store(client, url)


def _open_folder(folder: Path) -> Store:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"store {folder}: cannot make this folder: {error.strerror}") from error
    return Store(LocalStore(folder), f"file://{folder}")


def _endpoint_is_http() -> bool:
    endpoint = next(filter(None, map(os.environ.get, _ENDPOINT_VARIABLES)), "")
    return endpoint.lower().startswith("http://")


@contextmanager
def _speaking(where: str) -> Iterator[None]:
    """Turn obstore's errors into ours, sorted by who must act."""
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise _translate(error, where) from error


def _translate(error: Exception, where: str) -> FleetError:
    said = _first_line(error)
    if "169.254.169.254" in said:
        return ConfigError(f"{where}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY ({said})")
    if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in said:
        return MissingObject(f"{where}: no such object")
    if _FULL.search(said):
        return StoreFull(f"{where}: the store is full; make room, nothing is lost ({said})")
    if _OUT_OF_RANGE.search(said):
        return IntegrityError(f"{where}: the object ends before the range that was asked for ({said})")
    if isinstance(error, _USERS_TO_FIX) or _REFUSED.search(said):
        return ConfigError(f"{where}: the store refuses: {said}")
    if _UNREACHABLE.search(said):
        return ServiceUnreachable(f"{where}: the store does not answer: {said}")
    return TransientError(f"{where}: {said}")


def _first_line(error: Exception) -> str:
    """Return what obstore says before its dump of Rust values, on one line of at most 400 characters."""
    said = " ".join(str(error).partition("\n\nDebug source:")[0].split())
    return mask_text(said if len(said) <= 400 else said[:397] + "...")
