"""Addresses in object storage: ``s3://BUCKET/KEY``, ``gs://BUCKET/KEY`` or ``az://CONTAINER/KEY``.

A key is written as it is, without percent encoding. ``/`` separates the parts of a key, and a folder is a prefix of keys.
"""

import posixpath
import re
from pathlib import Path
from typing import NamedTuple

REMOTE_SCHEMES = ("s3", "gs", "az")
_REMOTE = re.compile(rf"(?:{'|'.join(REMOTE_SCHEMES)})://[A-Za-z0-9$][A-Za-z0-9._$-]*(?:/|$)", re.IGNORECASE)


class Address(NamedTuple):
    """The address of a bucket, as in ``s3://BUCKET``, and a key in it. The key of the bucket itself is empty."""

    bucket: str
    key: str


def is_remote(path: str) -> bool:
    """Return whether a path is an address in object storage, with a name of a bucket."""
    return _REMOTE.match(path) is not None


def split_address(address: str) -> Address:
    """Return the parts of an address without ``.``, ``..`` and empty steps."""
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    return Address(f"{scheme.lower()}://{bucket}", posixpath.normpath(f"/{key}").lstrip("/"))


def normalize_address(address: str) -> str:
    """Return an address without ``.``, ``..`` and empty steps."""
    bucket, key = split_address(address)
    return f"{bucket}/{key}" if key else bucket


def resolve_path(folder: Path | str, path: str) -> str:
    """Return the absolute form of a path that starts at a folder. Links are followed, and an address is normalized."""
    if is_remote(path):
        return normalize_address(path)
    if is_remote(str(folder)):
        return path if posixpath.isabs(path) else normalize_address(f"{folder}/{path}")
    return str((Path(folder) / path).resolve())


def is_below(address: str, folder: str) -> bool:
    """Return whether an address is a folder or in it. ``..`` in the address counts as the parent folder."""
    if not (is_remote(address) and is_remote(folder)):
        return False
    found, root = normalize_address(address), normalize_address(folder)
    return found == root or found.startswith(f"{root}/")
