"""Names made from content: the same inputs get the same ids on every machine and every day."""

import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any

_BLOCK_BYTES = 1 << 20


def digest_bytes(content: bytes, *, size: int = 16) -> str:
    """Return the BLAKE2b digest of ``content`` as ``2 * size`` hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=size).hexdigest()


def digest_record(record: Any, *, size: int = 16) -> str:
    """Return the digest of a JSON-like value, whatever the order of its keys."""
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return digest_bytes(text.encode("utf-8", "surrogatepass"), size=size)


def digest_file(path: Path) -> str:
    """Return the digest of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def name_worker(slot: str) -> str:
    """Return this worker's name: its GPU slot, host and process, for example ``gpu0@node7:4121``."""
    return f"{slot}@{socket.gethostname()}:{os.getpid()}"
