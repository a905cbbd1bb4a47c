"""Media from files: which folders they may lie in, and reading a file or a byte range of it.

A dataset names its media, and whoever wrote the dataset is not the one who runs the worker: without roots, a path in a
row could have any file that the worker reads shown to the model, and its content told in the answer.
"""

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from common.errors import ConfigError, SampleError, TransientError
from common.settings import Settings
from common.spec.models import DatasetSource

# A folder on the way need only be searchable, not readable; systems without O_PATH ask for more.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY

# This machine has no more of something, whatever was to be opened: of descriptors or memory.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# What the file lies on is away and may come back: an NFS server that restarts, a FUSE mount that was lost, Lustre that threw this
# machine out (ESHUTDOWN), a lease that somebody holds on the file (EAGAIN).  Not EIO: that may be one bad file for ever.
_AWAY = EXHAUSTED | {
    *(errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN, errno.ETIMEDOUT, errno.EAGAIN, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
}


@dataclass(frozen=True)
class MediaAccess:
    """Where media may come from: files below ``roots``, and https addresses if ``urls``, ``url_timeout_s`` for each in all."""

    roots: tuple[Path, ...]
    urls: bool
    url_timeout_s: float


def find_access(settings: Settings, datasets: Sequence[DatasetSource]) -> MediaAccess:
    """Return where a run's media may come from.

    ``FLEET_MEDIA_ROOTS`` is the operator's last word; where it is not set, the folders of the run's own datasets count.
    Raises ``ConfigError`` when it names a folder that is not absolute, or none.
    """
    named = tuple(Path(folder) for source in datasets for folder in (source.media_root, Path(source.path).parent) if folder)
    roots = _read_roots(settings.media_roots) if settings.media_roots else tuple(dict.fromkeys(named))
    return MediaAccess(roots, settings.media_urls, settings.media_url_timeout_s)


def _read_roots(text: str) -> tuple[Path, ...]:
    folders = tuple(Path(folder) for folder in text.split(os.pathsep) if folder)
    wrong = [str(folder) for folder in folders if not folder.is_absolute()]
    if wrong or not folders:
        raise ConfigError(
            f"FLEET_MEDIA_ROOTS: found {wrong[0] if wrong else text!r}; expected absolute folders with {os.pathsep!r} between them"
        )
    return folders


def read_file(path: Path, offset: int, length: int | None, name: str, *, roots: Sequence[Path], max_bytes: int) -> bytes:
    """Return ``length`` bytes of a file from ``offset`` on, by default all to its end; ``name`` is for messages.

    Raises ``SampleError``: ``media_forbidden`` when the path, its links resolved, lies under none of the ``roots``, whether
    or not there is such a file; ``media_missing``, ``media_unreadable``, ``media_corrupt`` (it ends before the range) and
    ``media_too_large``.  Raises ``TransientError`` when it cannot be known or read now, by no fault of the file's.
    """
    try:
        real_path = _resolve(path)
        real_roots = map(_resolve, roots)
        root = next((root for root in real_roots if real_path.is_relative_to(root)), None)
        if root is None:
            raise _forbidden(name, roots)
        with os.fdopen(_open_below(root, real_path, name), "rb") as stream:
            return _read_range(stream, offset, length, name, max_bytes)
    except FileNotFoundError:
        message = f"{name}: no such file; check the path in the dataset, or set media_root to the folder of the images"
        raise SampleError("media_missing", message) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        if isinstance(error, OSError) and error.errno in _AWAY:
            raise TransientError(f"{name}: cannot be read now: {error.strerror}") from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SampleError("media_unreadable", f"{name}: cannot be read: {reason}; check the path and its permissions") from error


def _resolve(path: Path) -> Path:
    """Return the path with its links followed, whether or not there is such a file.

    ``realpath`` takes what it cannot look at for no link, and so a path or a root that is away for one outside of the roots.
    """
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError as error:
        if error.errno in _AWAY:
            raise
        return Path(os.path.realpath(path))


def _forbidden(name: str, roots: Sequence[Path]) -> SampleError:
    allowed = ", ".join(str(root) for root in roots) or "none"
    return SampleError(
        "media_forbidden",
        f"{name}: outside the folders that media may be read from ({allowed}); put the file there, set the dataset's "
        "media_root, or start the workers with FLEET_MEDIA_ROOTS",
    )


def _open_below(root: Path, path: Path, name: str) -> int:
    """Return a descriptor of the file.  Both paths are resolved: a link met here was put in since, and is not followed."""
    *folders, last = path.relative_to(root).parts or (".",)
    folder = os.open(root, _FOLDER)
    try:
        for part in folders:
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        _check_file(os.stat(last, dir_fd=folder, follow_symlinks=False), name)  # before it is opened: that can start a device
        return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)


def _check_file(found: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(found.st_mode):  # a named pipe would block for ever
        raise SampleError("media_unreadable", f"{name}: not a file; expected the path of an image")


def _read_range(stream: BinaryIO, offset: int, length: int | None, name: str, max_bytes: int) -> bytes:
    found = os.fstat(stream.fileno())
    _check_file(found, name)
    present = max(0, found.st_size - offset)
    wanted = present if length is None else length
    if wanted > max_bytes:
        raise SampleError("media_too_large", f"{name}: {wanted} bytes, at most {max_bytes} are allowed; scale it down")
    if wanted > present:
        message = f"{name}: the file ends {wanted - present} bytes before the range; was it replaced after the run was planned?"
        raise SampleError("media_corrupt", message)
    stream.seek(offset)
    return stream.read(wanted)
