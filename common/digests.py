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


def name_node() -> str:
    """Return this machine's name in the names of workers: ``node7``, or ``node7.4711`` within job 4711 of SLURM.

    Two jobs on one machine each count their own GPUs from 0, and are not to be taken for each other.
    """
    job = os.environ.get("SLURM_JOB_ID")
    return f"{socket.gethostname()}.{job}" if job else socket.gethostname()
