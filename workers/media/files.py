"""Media from files: check that a file is in an allowed folder, and read it or a byte range of it.

A dataset names its media, and the author of a dataset is usually not the operator of the worker. If files were not restricted
to allowed folders (roots), a row could name any file that the worker can read. The file would be sent to the model, and the
answer could disclose its content.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from common.errors import UNAVAILABLE, SampleError, TransientError
from common.settings import Settings
from common.spec.media_roots import find_media_roots
from common.spec.models import DatasetSource
from common.spec.prompts import Example
from common.storage.addresses import is_remote

# With O_PATH a parent folder needs only search permission; systems without O_PATH require read permission as well.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY


@dataclass(frozen=True)
class MediaAccess:
    """The allowed sources of media: files below ``roots``, and https addresses if ``urls`` is true.

    A root is a folder on this machine, or an address in object storage.
    ``url_timeout_s`` is the total time for one address, in seconds.
    """

    roots: tuple[str, ...]
    urls: bool
    url_timeout_s: float


def find_access(settings: Settings, datasets: Sequence[DatasetSource], examples: Sequence[Example] = ()) -> MediaAccess:
    """Return the allowed media sources of a run. Raises the errors of ``find_media_roots``."""
    roots = find_media_roots(settings, datasets, examples)
    return MediaAccess(roots, settings.media_urls, settings.media_url_timeout_s)


def read_file(path: Path, offset: int, length: int | None, name: str, *, roots: Sequence[str], max_bytes: int) -> bytes:
    """Return ``length`` bytes of a file from ``offset``, or all bytes to its end if ``length`` is ``None``.

    ``name`` names the file in error messages.

    Raises ``SampleError`` with one of these codes:

    - ``media_forbidden``: the path, with its links resolved, is outside of all ``roots``. This is checked even if the file does
      not exist.
    - ``media_missing``: the file does not exist.
    - ``media_unreadable``: no permission, not a regular file, or another error of the file system.
    - ``media_corrupt``: the file ends before the end of the range.
    - ``media_too_large``: more than ``max_bytes`` bytes are requested.

    Raises ``TransientError`` if the file system or this machine prevents the read now and the file is not at fault.
    """
    try:
        real_path = _resolve(path)
        real_roots = (_resolve(Path(root)) for root in roots if not is_remote(root))
        root = next((root for root in real_roots if real_path.is_relative_to(root)), None)
        if root is None:
            raise make_forbidden(name, roots)
        with os.fdopen(_open_below(root, real_path, name), "rb") as stream:
            return _read_range(stream, offset, length, name, max_bytes)
    except FileNotFoundError:
        message = f"{name}: no such file; check the path in the dataset, or set media_root to the folder of the images"
        raise SampleError("media_missing", message) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        if isinstance(error, OSError) and error.errno in UNAVAILABLE:
            raise TransientError(f"{name}: cannot be read now: {error.strerror}") from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SampleError("media_unreadable", f"{name}: cannot be read: {reason}; check the path and its permissions") from error


def _resolve(path: Path) -> Path:
    """Return the path with its links followed, whether or not the file exists.

    Without ``strict``, ``realpath`` treats a component that it cannot inspect as not being a link. A path or a root on an
    unavailable file system would then seem to be outside of the roots, so errors that show that the file system is unavailable
    are raised here.
    """
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError as error:
        if error.errno in UNAVAILABLE:
            raise
        return Path(os.path.realpath(path))


def make_forbidden(name: str, roots: Sequence[str]) -> SampleError:
    allowed = ", ".join(roots) or "none"
    return SampleError(
        "media_forbidden",
        f"{name}: outside the folders that media may be read from ({allowed}); put the file there, set the dataset's "
        "media_root, or start the workers with FLEET_MEDIA_ROOTS",
    )


def _open_below(root: Path, path: Path, name: str) -> int:
    """Return a descriptor of the file. Both paths must be resolved.

    A link found here was created after the path was resolved, so it is not followed.
    """
    *folders, last = path.relative_to(root).parts or (".",)
    folder = os.open(root, _FOLDER)
    try:
        for part in folders:
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        # Checked before opening, because opening a device can have side effects.
        _check_file(os.stat(last, dir_fd=folder, follow_symlinks=False), name)
        return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)


def _check_file(found: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(found.st_mode):  # reading a named pipe would block without limit
        raise SampleError("media_unreadable", f"{name}: not a file; expected the path of an image")


def _read_range(stream: BinaryIO, offset: int, length: int | None, name: str, max_bytes: int) -> bytes:
    found = os.fstat(stream.fileno())
    _check_file(found, name)
    available = max(0, found.st_size - offset)
    requested = available if length is None else length
    check_range(requested, available, name, max_bytes)
    stream.seek(offset)
    return stream.read(requested)


def check_range(requested: int, available: int, name: str, max_bytes: int) -> None:
    """Raise ``SampleError`` if more bytes are requested than are allowed, or than the file has from the offset of the range."""
    if requested > max_bytes:
        message = f"{name}: it has {requested} bytes, but at most {max_bytes} are allowed; scale the image or video down"
        raise SampleError("media_too_large", message)
    if requested > available:
        missing = requested - available
        message = f"{name}: the file is {missing} bytes too short for the range; restore the file that the run was planned with"
        raise SampleError("media_corrupt", message)
