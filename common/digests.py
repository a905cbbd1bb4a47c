"""Ids computed from content: the same input has the same id on every machine, at any time."""

import hashlib
import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any, BinaryIO

_BLOCK_BYTES = 1 << 20
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,76}")  # a profile's name of at most 64 characters, "-" and 12 digits


def is_run_id(value: object) -> bool:
    """Return whether ``value`` has the form of a run id. Other values are never looked up, logged or stored."""
    return isinstance(value, str) and _RUN_ID.fullmatch(value) is not None


def digest_bytes(content: bytes, *, size: int = 16) -> str:
    """Return the BLAKE2b digest of ``content`` as ``2 * size`` hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=size).hexdigest()


def digest_record(record: Any, *, size: int = 16) -> str:
    """Return the digest of a JSON-like value. The order of its keys does not matter."""
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return digest_bytes(text.encode("utf-8", "surrogatepass"), size=size)


def digest_file(path: Path) -> str:
    """Return the digest of a file's bytes, read in blocks of 1 MiB."""
    with path.open("rb") as stream:
        return digest_stream(stream)


def digest_stream(stream: BinaryIO, length: int | None = None) -> str:
    """Return the digest of the next ``length`` bytes of a stream, or of the rest of it, read in blocks of 1 MiB."""
    digest = hashlib.blake2b(digest_size=16)
    left = sys.maxsize if length is None else length
    while block := stream.read(min(left, _BLOCK_BYTES)):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


def name_node() -> str:
    """Return this machine's name for worker names: ``node7``, or ``node7.4711`` in SLURM job 4711.

    Two jobs on one machine both number their GPUs from 0, so the job id makes the names of their workers unique.
    """
    job = os.environ.get("SLURM_JOB_ID")
    return f"{socket.gethostname()}.{job}" if job else socket.gethostname()
