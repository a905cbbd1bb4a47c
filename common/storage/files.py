"""Files and folders of datasets and media: paths on this machine, and addresses in object storage (``addresses.py``).

The functions raise ``OSError`` for both. For addresses, they also raise the errors of ``remote_files.py``.
"""

import os
from io import BufferedReader
from pathlib import Path

from common.digests import digest_stream
from common.storage.addresses import is_remote
from common.storage.remote_files import (
    RemoteFile,
    find_remote_state,
    is_remote_folder,
    list_remote_folder,
)

_BUFFER_BYTES = 2 * 2**20  # one request reads a buffer


def open_file(path: str) -> BufferedReader:
    """Open a file for reading its bytes. The stream can seek."""
    return BufferedReader(RemoteFile(path), _BUFFER_BYTES) if is_remote(path) else Path(path).open("rb")


def is_file(path: str) -> bool:
    """Return whether a path names a file."""
    if is_remote(path):
        return find_remote_state(path) is not None
    return os.path.isfile(path)  # noqa: PTH113  Path.is_file raises for a name that is too long


def is_folder(path: str) -> bool:
    """Return whether a path names a folder. In object storage, a folder has at least one file."""
    if is_remote(path):
        return find_remote_state(path) is None and is_remote_folder(path)
    return os.path.isdir(path)  # noqa: PTH112  as above


def list_folder(path: str) -> list[str]:
    """Return the names of the files and folders directly in a folder."""
    return list_remote_folder(path) if is_remote(path) else os.listdir(path)  # noqa: PTH208  as above


def digest_content(path: str) -> str:
    """Return the digest of a file's bytes."""
    with open_file(path) as stream:
        return digest_stream(stream)
