"""SHA-256 digests of files, stored in a small cache file of the user, so that a large model is hashed once per node."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import structlog

from workers.engines.hub_cache import read_blob_name

log = structlog.get_logger()

Known = MutableMapping[str, tuple[list[int], str]]  # by path: the state of the file, and its digest

_LOGGED_BYTES = 2**31  # hashing this much takes seconds, or minutes on a network disk
_MOST_KNOWN = 10_000


def digest_files(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the SHA-256 of each file. Read only new and changed files. Raises ``OSError``.

    If workers of a node start together, the first worker hashes the model and the other workers wait.
    """
    digests = {path: digest for path in paths if (digest := read_blob_name(path))}
    rest = [path for path in paths if path not in digests]
    if not rest:
        return digests
    with _open_cache() as known:
        stale = [path for path in rest if known.get(str(path), ((), ""))[0] != _read_state(path)]
        size = sum(path.stat().st_size for path in stale)
        if size >= _LOGGED_BYTES:
            log.info("weights.hashing", folder=str(stale[0].parent), gib=round(size / 2**30, 1))
        for path in stale:
            state = _read_state(path)  # read first: if the file changes during hashing, it is hashed again next time
            known[str(path)] = (state, _digest_file(path))
        return digests | {path: known[str(path)][1] for path in rest}


def _read_state(path: Path) -> list[int]:
    found = path.stat()
    # Include the change time: rsync, for example, can replace a file without a change of its size and modification time.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _digest_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _open_cache() -> Iterator[Known]:
    """Yield the known digests under an exclusive lock. Digests that the block adds are saved when it ends.

    If the cache folder cannot be written, all files count as new.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlm-fleet"
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "digests.lock").open("w")
    except (OSError, RuntimeError):
        yield {}
        return
    with lock:
        with suppress(OSError):  # some network file systems do not support locks; each worker then hashes
            fcntl.flock(lock, fcntl.LOCK_EX)
        known = _read_known(folder / "digests.json")
        before = dict(known)
        yield known
        if known != before:
            with suppress(OSError):
                _write_known(folder / "digests.json", known)


def _read_known(path: Path) -> Known:
    try:
        return {name: (list(map(int, state)), str(digest)) for name, (state, digest) in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # absent or damaged
        return {}


def _write_known(path: Path, known: Known) -> None:
    newest = dict(list(known.items())[-_MOST_KNOWN:])
    with NamedTemporaryFile("w", dir=path.parent, delete=False) as stream:
        json.dump(newest, stream)
    Path(stream.name).replace(path)
