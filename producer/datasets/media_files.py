"""The media files that the rows of a dataset name: the digest of their content, and the files that a worker could not read."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import structlog

from common.digests import digest_record
from common.errors import UNAVAILABLE
from common.spec.models import DatasetSource
from common.storage.addresses import is_below, is_remote
from common.storage.files import digest_content
from common.storage.remote_files import find_remote_state
from common.storage.store import ObjectState
from producer.datasets.media import Reference, find_path, find_size

log = structlog.get_logger()

# A local disk reads 8,000 files or 800 MB in a second (docs/identity.md), so enqueueing takes at most about 5 s longer.
MOST_FILES = 20_000
MOST_BYTES = 4 * 2**30
_REQUESTS = 16  # at the same time

# Maps a path to the state of the file when it was read, such as its size and times, and to the digest of its content. The survey
# computes the digests, and planning uses them again.
_digests: dict[str, tuple[tuple[int, int, int] | ObjectState, str]] = {}


class FileProblem(StrEnum):
    """The reason why a worker could not read a file. It completes the sentence "The file …" in messages."""

    ABSENT = "does not exist"
    UNREADABLE = "is not a readable file"
    OUTSIDE = "is outside the folders that media may be read from"


class UnreadableFile(NamedTuple):
    """A file that a row names and that could not be read."""

    problem: FileProblem
    path: str
    reference: Reference


@dataclass
class MediaFiles:
    """The files that the rows of a dataset name by path, up to a limit.

    - ``roots`` are the folders that media may be read from. If it is empty, all folders are allowed.
    - ``keys`` maps a path to its content key.
    - ``problems`` maps a path to the reason why the file could not be read, or to None.
    - ``checked`` counts the rows that have media and whose files are all within the limit.
    - ``absent`` counts the rows whose media are all files that do not exist.
    - ``rows`` counts, by reason, the rows with a file that could not be read.
    """

    source: DatasetSource
    roots: Sequence[str] = ()
    keys: dict[str, str] = field(default_factory=dict)
    problems: dict[str, FileProblem | None] = field(default_factory=dict)
    checked: int = 0
    absent: int = 0
    rows: Counter[FileProblem] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._most = None if self.source.digest_media == "always" else MOST_FILES + 1
        self._roots = tuple(root if is_remote(root) else os.path.realpath(root) for root in self.roots)

    def add_row(self, references: Sequence[Reference]) -> UnreadableFile | None:
        """Add the files of a row. Return the first file that could not be read, or None."""
        paths = {path: one for one in references if (path := find_path(one.media))}
        for path, reference in paths.items():
            if path not in self.problems and (self._most is None or len(self.problems) < self._most):
                # A key is the path as written in the row, so a dataset keeps its digest when it is moved.
                self.keys[path], self.problems[path] = reference.key, self._check(path)
        self.checked += bool(references) and all(path in self.problems for path in paths)
        has_others = any(find_path(one.media) is None for one in references)
        self.absent += bool(paths) and not has_others and all(self.problems.get(path) is FileProblem.ABSENT for path in paths)
        for path, reference in paths.items():
            if problem := self.problems.get(path):
                self.rows[problem] += 1
                return UnreadableFile(problem, path, reference)
        return None

    @property
    def are_all_absent(self) -> bool:
        """Return whether the rows have media and all of these files are absent. Files above the limit are not checked."""
        return 0 < self.checked == self.absent

    def digest(self) -> str | None:
        """Return the digest of all files, or None if they count by path only."""
        if self.source.digest_media == "never":
            return None
        if self.source.digest_media == "auto" and self._exceeds_limits():
            log.warning(
                "media.named_by_path",
                dataset=self.source.name,
                hint=f"more than {MOST_FILES:,} files or {MOST_BYTES >> 30} GiB: they count by path, not by content, and changes "
                "of the files are not detected; set digest_media: always to count their content",
            )
            return None
        digests: dict[str, str] = {}
        for key, digest in zip(self.keys.values(), self._digest_files(), strict=True):
            if digest:
                # Rows of several dataset files can have the same relative path, but name media files in different folders.
                digests[key if key not in digests else f"{key}\n{len(digests)}"] = digest
        if missing := len(self.keys) - len(digests):
            log.warning(
                "media.named_by_path",
                dataset=self.source.name,
                files=missing,
                hint="not readable here: they count by path, not by content",
            )
        return digest_record(digests) if digests else None

    def _digest_files(self) -> Iterator[str | None]:
        """Yield the digest of each file, or None. Objects are read side by side, because a request waits longer than it reads."""
        allowed = [None if is_remote(path) and self.problems[path] is FileProblem.OUTSIDE else path for path in self.keys]
        with ThreadPoolExecutor(_REQUESTS if any(map(is_remote, self.keys)) else 1, thread_name_prefix="digest") as pool:
            yield from pool.map(lambda path: digest_path(path) if path else None, allowed)

    def _exceeds_limits(self) -> bool:
        return len(self.keys) > MOST_FILES or sum(map(self._find_size, self.keys)) > MOST_BYTES

    def _find_size(self, path: str) -> int:
        return 0 if self.problems[path] is FileProblem.OUTSIDE and is_remote(path) else find_size(path) or 0

    def _check(self, path: str) -> FileProblem | None:
        return self._check_address(path) if is_remote(path) else self._check_path(path)

    def _check_address(self, address: str) -> FileProblem | None:
        if self._roots and not any(is_below(address, root) for root in self._roots):
            return FileProblem.OUTSIDE  # a row cannot make this process use other buckets
        try:
            return None if find_remote_state(address) else FileProblem.ABSENT
        except OSError:
            return FileProblem.UNREADABLE

    def _check_path(self, path: str) -> FileProblem | None:
        try:
            found = os.lstat(path)
            is_link = stat.S_ISLNK(found.st_mode)
            if not stat.S_ISREG((os.stat(path) if is_link else found).st_mode) or not os.access(path, os.R_OK):  # noqa: PTH116
                return FileProblem.UNREADABLE
        except (FileNotFoundError, NotADirectoryError):
            return FileProblem.ABSENT
        except (OSError, ValueError) as error:
            return None if isinstance(error, OSError) and error.errno in UNAVAILABLE else FileProblem.UNREADABLE
        folder, name = os.path.split(path)
        real = os.path.realpath(path) if is_link else f"{_resolve(folder)}/{name}"
        is_inside = any(os.path.commonpath((real, root)) == root for root in self._roots if not is_remote(root))
        return None if is_inside or not self._roots else FileProblem.OUTSIDE


@lru_cache(maxsize=4096)
def _resolve(folder: str) -> str:
    return os.path.realpath(folder)


def forget_digests() -> None:
    """Forget the digests of files that an earlier enqueue of this process has read."""
    _digests.clear()


def pin_reference(reference: Reference) -> Reference:
    """Add the digest of the file's content to a reference. Return a reference without a readable file unchanged."""
    path = find_path(reference.media)
    digest = find_digest(path) if path else None
    if digest is None:
        return reference
    return Reference(reference.media.model_copy(update={"digest": digest}), f"{reference.media.kind}@{digest}")


def find_digest(path: str) -> str | None:
    """Return the digest of a file's content, or None if it cannot be read, or is an object that has not been read yet.

    Only ``MediaFiles.digest`` reads objects, because it knows the folders that media may be read from.
    """
    return _digests.get(path, (None, None))[1] if is_remote(path) else digest_path(path)


def digest_path(path: str) -> str | None:
    """Return the digest of a file's content, or None if it cannot be read. An enqueue reads an unchanged file only once."""
    try:
        state = _find_remote_state(path) if is_remote(path) else _find_local_state(path)
        if state is None:
            return None
        known, digest = _digests.get(path, (None, ""))
        if known != state:
            digest = digest_content(path)
            _digests[path] = state, digest
    except (OSError, ValueError):
        return None
    return digest


def _find_remote_state(address: str) -> ObjectState | None:
    """Return the state of an object that is not empty, or None."""
    state = find_remote_state(address)
    return state if state and state.size_bytes else None


def _find_local_state(path: str) -> tuple[int, int, int] | None:
    """Return the size and times of a regular file, or None. Reading a named pipe or a file of the kernel may never end."""
    found = os.stat(path)  # noqa: PTH116  Path costs more than the call
    is_regular = stat.S_ISREG(found.st_mode) and found.st_size
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns) if is_regular else None
