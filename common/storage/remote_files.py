"""Files in object storage, read with the code and the credentials of the store.

A missing object, a missing bucket or a missing permission raises the ``OSError`` of a local file. The other errors are those of
``Store``: ``ServiceUnreachable`` if the storage does not answer, and ``ConfigError`` if the user must change something.
"""

import errno
import io
import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from typing_extensions import Buffer, override

from common.errors import ConfigError
from common.storage.addresses import normalize_address, split_address
from common.storage.store import MissingObject, ObjectState, Store, StoreClosed, open_store

# A folder of up to MOST_LISTED objects is listed once, which takes a request for each 1,000 objects. In larger folders, and in
# the folders after the first MOST_FOLDERS, each file takes a request.
MOST_LISTED = 20_000
MOST_FOLDERS = 64
_MOST_STATES = 100_000


@dataclass(frozen=True, slots=True)
class _Folder:
    """The first files of a folder and of its subfolders, by address. ``is_complete`` states whether there are no others."""

    states: dict[str, ObjectState]
    is_complete: bool


_folders: dict[str, _Folder] = {}


class RemoteFile(io.RawIOBase):
    """An object as a seekable file. Each read is one request for a byte range.

    Raises ``ConfigError`` if the object is overwritten while it is read.
    """

    def __init__(self, address: str) -> None:
        self._store, key = _open_object(address)
        self._address, self._position = address, 0
        with _raising_os_errors(address):
            self._state = self._store.find_state(key)

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._position

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._state.size_bytes}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._state.size_bytes - self._position)
        if length <= 0:
            return 0
        with _raising_os_errors(self._address):
            content = self._store.get_unchanged(self._state, self._position, length)
        view[: len(content)] = content
        self._position += len(content)
        return len(content)


def read_remote(address: str, offset: int, length: int | None, check: Callable[[int], None]) -> bytes:
    """Return bytes of an object with one request. The parameters are those of ``Store.get_checked``. Raises ``OSError``."""
    store, key = _open_object(address)
    with _raising_os_errors(address):
        return store.get_checked(key, offset, length, check)


def find_remote_state(address: str) -> ObjectState | None:
    """Return the state of an object, or None if there is no such object. ``forget_states`` ends the use of known states.

    Raises ``PermissionError``.
    """
    address = normalize_address(address)
    if not split_address(address).key:
        return None
    folder = _list_once(posixpath.dirname(address))
    return folder.states.get(address) if folder.is_complete or address in folder.states else _ask_state(address)


def forget_states() -> None:
    """Forget the states of all objects, because they may have changed."""
    _folders.clear()
    _ask_state.cache_clear()


def is_remote_folder(address: str) -> bool:
    """Return whether there are objects below an address. Raises ``OSError``."""
    return next(_iterate_states(address), None) is not None


def list_remote_folder(address: str) -> list[str]:
    """Return the names of the files and folders directly in a folder. Raises ``OSError``."""
    store, key = _open(address)
    with _raising_os_errors(address):
        return store.list_children(key)


def iterate_remote_folder(address: str) -> list[str]:
    """Return the relative keys of all files below a folder, in the order of a local folder. Raises ``OSError``."""
    start = len(normalize_address(address)) + 1
    names = (found[start:] for found, _ in _iterate_states(address))
    return sorted(filter(None, names), key=lambda name: name.split("/"))


def _open_object(address: str) -> tuple[Store, str]:
    """Return a store and a key. Raises ``OSError`` for a bucket, because S3 would return the list of its keys as content."""
    store, key = _open(address)
    if not key:
        raise IsADirectoryError(errno.EISDIR, "the address of a bucket, not of an object", address)
    return store, key


def _open(address: str) -> tuple[Store, str]:
    bucket, key = split_address(address)
    return _open_bucket(bucket, os.getpid()), key


@lru_cache
def _open_bucket(bucket: str, process: int) -> Store:
    """Return the store of a bucket. A client hangs in a forked process, so each process has its own."""
    del process
    return open_store(bucket)


@lru_cache(_MOST_STATES)
def _ask_state(address: str) -> ObjectState | None:
    store, key = _open(address)
    try:
        with _raising_os_errors(address):
            return store.find_state(key)
    except FileNotFoundError:
        return None


def _list_once(folder: str) -> _Folder:
    """Return the first files of a folder."""
    if folder not in _folders and len(_folders) < MOST_FOLDERS:
        try:
            found = dict(islice(_iterate_states(folder), MOST_LISTED + 1))
            _folders[folder] = _Folder(found, is_complete=len(found) <= MOST_LISTED)
        except FileNotFoundError:
            _folders[folder] = _Folder({}, is_complete=True)
        except (PermissionError, ConfigError):  # the request for the file itself may succeed, and raises its own error otherwise
            _folders[folder] = _Folder({}, is_complete=False)
    return _folders.get(folder, _Folder({}, is_complete=False))


def _iterate_states(folder: str) -> Iterator[tuple[str, ObjectState]]:
    """Yield the address and the state of each object below a folder, in the order of the keys.

    An empty object before the objects of the folder with its name is a mark of this folder, and is not a file.
    """
    bucket, key = split_address(folder)
    store, _ = _open(folder)
    with _raising_os_errors(folder):
        last: ObjectState | None = None
        for state in store.list_states(key):
            if last and (last.size_bytes or not state.key.startswith(f"{last.key}/")):
                yield f"{bucket}/{last.key}", last
            last = state
        if last and (last.size_bytes or last.key != key):
            yield f"{bucket}/{last.key}", last


@contextmanager
def _raising_os_errors(address: str) -> Iterator[None]:
    try:
        yield
    except MissingObject:
        raise FileNotFoundError(errno.ENOENT, "no such object", address) from None
    except StoreClosed as error:
        if "RequestTimeTooSkewed" in str(error):  # the clock of this machine is at fault, not the file
            raise
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), address) from error
    except ConfigError as error:
        if "NoSuchBucket" in str(error):
            raise FileNotFoundError(errno.ENOENT, "no such bucket", address) from None
        if "KeyTooLong" in str(error):
            raise OSError(errno.ENAMETOOLONG, "the key is too long", address) from None
        if isinstance(error.__cause__, ValueError):
            raise OSError(errno.EINVAL, "not a valid key", address) from error
        raise
