"""The store: one root (a local folder or a prefix in object storage) and the operations that work reliably on both.

A key is a path of segments joined by ``/``. On local disk, the segments are folders. A write is atomic: an incomplete object is
never visible.

An obstore client hangs in a forked child. Therefore open a store after a fork, and never at import time.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import LocalStore, from_url

from common.errors import ConfigError, IntegrityError, ServiceUnreachable, TransientError
from common.redaction import mask_text
from common.storage.store_errors import (
    MissingObject,
    StoreClosed,
    StoreFull,
    check_folder,
    first_line,
    translate_folder_error,
    translating,
)

if TYPE_CHECKING:  # these names exist only in obstore's stubs
    from obstore import GetOptions, ObjectMeta, WritableFile
    from obstore.store import ObjectStore

__all__ = ["MissingObject", "ObjectState", "Store", "StoreClosed", "StoreFull", "StoreProbe", "Writer", "open_store"]

KNOWN_SCHEMES = ("file", "s3", "gs", "az")

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_WRITE_BUFFER_BYTES = 8 * 2**20  # S3 requires at least 5 MiB per part of a multipart upload
_LIST_PAGE = 1000
_CREATE_TRIES = 3
_LIST_TRIES = 3
_RETRIES = 10_000  # large, so that ``patience_s`` limits the retries; obstore's default of 10 ends them within about 2 s
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=0.1), timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class StoreProbe:
    """The result of ``Store.probe``: all checks passed at ``url`` (credentials masked) and took ``duration_s`` in total."""

    url: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class ObjectState:
    """The state of an object. ``version`` changes when the object is written, and is not a digest of its content."""

    key: str
    size_bytes: int
    version: str


class Writer:
    """A writer of one object in pieces. ``Store.open_writer`` creates it."""

    def __init__(self, stream: "WritableFile", where: str) -> None:
        self._stream = stream
        self._where = where

    def write(self, content: bytes) -> None:
        """Append ``content``. Each full buffer of 8 MiB is sent immediately."""
        with translating(self._where):
            self._stream.write(content)


class Store:
    """Objects under one root. Thread-safe. ``open_store`` creates it.

    Every operation retries transient errors with backoff for up to ``patience_s``, then raises ``ServiceUnreachable``. If the
    user must act (wrong credentials, no such bucket, an invalid key), it raises ``ConfigError``. If the store is full or forbids
    the operation now, it raises ``StoreFull`` or ``StoreClosed``.
    """

    def __init__(self, client: "ObjectStore", url: str, folder: Path | None = None) -> None:
        self._client = client
        self._folder = folder
        self.url = mask_text(url)

    def put_new(self, key: str, content: bytes) -> bool:
        """Create the object if it does not exist. Return whether this call created it.

        Among concurrent calls exactly one returns True. False may also mean that an earlier attempt of this call succeeded and
        its response was lost. In that case, read the object to check its content.
        """
        for _ in range(_CREATE_TRIES):
            with self._translating(key), suppress(AlreadyExistsError):
                obstore.put(self._client, key, content, mode="create")
                return True
            # S3 may also respond to concurrent creates with 409 Conflict before one of them has succeeded. obstore raises the
            # same error for that.
            if self.exists(key):
                return False
        raise TransientError(f"{self._where(key)}: the store reports that the object exists, then that it does not exist")

    def put(self, key: str, content: bytes) -> None:
        """Write the object. Replace an existing object with this key."""
        with self._translating(key):
            obstore.put(self._client, key, content)

    def get(self, key: str) -> bytes:
        """Return the whole object. Raises ``MissingObject``."""
        with self._translating(key):
            return obstore.get(self._client, key).bytes().to_bytes()

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``.

        Raises ``MissingObject``, or ``IntegrityError`` if the object is shorter.
        """
        if length == 0:
            return b""  # obstore rejects empty ranges
        with self._translating(key):
            content = obstore.get_range(self._client, key, start=offset, length=length).to_bytes()
        if len(content) != length:
            raise IntegrityError(f"{self._where(key)}: expected {length} bytes from offset {offset}, found {len(content)}")
        return content

    def get_unchanged(self, state: ObjectState, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of an object from ``offset``. Raises ``ConfigError`` if it was written after ``state``."""
        options: GetOptions = {"range": (offset, offset + length), "if_match": state.version or None}
        try:
            with self._translating(state.key):
                return obstore.get(self._client, state.key, options=options).bytes().to_bytes()
        except (ConfigError, IntegrityError) as error:
            if isinstance(error.__cause__, PreconditionError) or isinstance(error, IntegrityError):
                message = f"{self._where(state.key)}: the object changed while it was read; expected an object that stays the same"
                raise ConfigError(message) from error
            raise

    def get_checked(self, key: str, offset: int, length: int | None, check: Callable[[int], None]) -> bytes:
        """Return ``length`` bytes from ``offset``, or all bytes to the end of the object if ``length`` is None.

        ``check`` gets the size of the whole object before its content is read, and may raise an error. The result is shorter if
        the object ends before. Raises ``MissingObject``, or ``IntegrityError`` if the object ends before ``offset``.
        """
        options: GetOptions = {}
        if length is not None:
            options = {"range": (offset, offset + length)}
        elif offset:
            options = {"range": {"offset": offset}}
        with self._translating(key):
            found = obstore.get(self._client, key, options=options)
        check(found.meta["size"])
        with self._translating(key):
            return found.bytes().to_bytes()

    def find_state(self, key: str) -> ObjectState:
        """Return the state of an object. Raises ``MissingObject``."""
        with self._translating(key):
            return _to_state(obstore.head(self._client, key))

    def exists(self, key: str) -> bool:
        """Return whether an object with this key exists."""
        try:
            self.find_state(key)
        except MissingObject:
            return False
        return True

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below the folder ``prefix``, in any order. Pages are read as needed.

        ``runs/a`` and ``runs/a/`` both name the same folder. They do not match ``runs/ab``.
        """
        return (state.key for state in self.list_states(prefix))

    def list_states(self, prefix: str = "") -> Iterator[ObjectState]:
        """Yield the states of the objects below the folder ``prefix``, as ``list_keys`` does. Object storage orders them by key."""
        last: str | None = None
        for tries_left in reversed(range(_LIST_TRIES)):
            try:
                for state in self._list_after(last, prefix):
                    yield state
                    last = state.key
            except ServiceUnreachable:
                # obstore does not retry a truncated page. Object storage lists keys in order, so listing can resume after `last`.
                if not tries_left or isinstance(self._client, LocalStore):
                    raise
            else:
                return

    def _list_after(self, last: str | None, prefix: str) -> Iterator[ObjectState]:
        with self._translating(prefix):
            pages = iter(obstore.list(self._client, prefix or None, offset=last, chunk_size=_LIST_PAGE))
        while True:
            with self._translating(prefix):
                page = next(pages, None)
            if page is None:
                return
            yield from map(_to_state, page)

    def list_children(self, folder: str) -> list[str]:
        """Return the names of the objects and folders directly in a folder."""
        with self._translating(folder):
            found = obstore.list_with_delimiter(self._client, folder or None)
        keys = [*found["common_prefixes"], *(state["path"] for state in found["objects"])]
        return sorted({key.rpartition("/")[2] for key in keys if key != folder})

    @contextmanager
    def open_writer(self, key: str) -> Iterator[Writer]:
        """Write one object in pieces.

        When the block ends, the object is complete and replaces an existing one. After an exception, the store is unchanged.
        """
        with self._translating(key):
            # By default, twelve full buffers can wait in memory for a slow disk or network.
            stream = obstore.open_writer(self._client, key, buffer_size=_WRITE_BUFFER_BYTES, max_concurrency=2)
        try:
            yield Writer(stream, self._where(key))
        except BaseException as error:
            with suppress(BaseError):  # keep the error of the block
                stream.__exit__(type(error), error, error.__traceback__)
            raise
        with self._translating(key):
            stream.close()

    def probe(self) -> StoreProbe:
        """Write an object, read it back, create it twice and delete it, under ``.probe/``.

        Raises ``ConfigError`` if the store creates an object that already exists: some S3 servers silently ignore the
        condition. With such a store, two workers could overwrite each other's part of a chunk.
        """
        started = time.monotonic()
        key, content = f".probe/{secrets.token_hex(8)}", secrets.token_bytes(64)
        created = self.put_new(key, content)
        try:
            if not created or self.get(key) != content:
                raise ConfigError(f"{self.url}: an object that was written could not be read back; check the store")
            if self.put_new(key, b"second"):
                raise ConfigError(
                    f"{self.url}: this store ignores conditional puts (If-None-Match: *): it created an object that already "
                    "existed. Two workers could overwrite each other's results; use a store that supports the condition"
                )
        finally:
            with suppress(BaseError, FileNotFoundError):  # a store without delete permission is usable: only the probe deletes
                obstore.delete(self._client, key)
        return StoreProbe(self.url, time.monotonic() - started)

    def _where(self, key: str) -> str:
        return f"{self.url}: {key!r}"

    @contextmanager
    def _translating(self, key: str) -> Iterator[None]:
        """Translate errors. Raise ``StoreClosed`` if a local folder is missing before or after the operation.

        If the folder disappears during an operation, the operation does not find any object.
        """
        self._check_folder()
        try:
            with translating(self._where(key)):
                yield
        except MissingObject:
            self._check_folder()
            raise
        self._check_folder()

    def _check_folder(self) -> None:
        if self._folder:
            check_folder(self._folder)


def open_store(url: str, *, create: bool = True, patience_s: float = 10.0) -> Store:
    """Open the store at ``url``: a path, ``file://`` and a path, ``s3://bucket/prefix``, ``gs://`` or ``az://``.

    With ``create``, a missing local folder is created. Without it, a missing folder raises ``StoreClosed``, because its file
    system may not be mounted. Credentials and endpoints come from the environment, for S3 from ``AWS_*``. Plain http is allowed
    only if the endpoint starts with ``http://``. ``patience_s`` limits the retries of one operation. Raises ``ConfigError``.
    This function does not contact object storage; ``Store.probe`` does.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() == "file":
        return _open_folder(Path(rest if separator else url).expanduser().absolute(), create=create)
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
        raise ConfigError(f"store {mask_text(url)}: {first_line(error)}") from error
    return Store(client, url)


def _open_folder(folder: Path, *, create: bool) -> Store:
    try:
        if create and not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise translate_folder_error(error, f"store {folder}: cannot create this folder") from error
    check_folder(folder)
    return Store(LocalStore(folder), f"file://{folder}", folder)


def _to_state(found: "ObjectMeta") -> ObjectState:
    return ObjectState(found["path"], found["size"], found["e_tag"] or "")


def _endpoint_is_http() -> bool:
    endpoint = next(filter(None, map(os.environ.get, _ENDPOINT_VARIABLES)), "")
    return endpoint.lower().startswith("http://")
