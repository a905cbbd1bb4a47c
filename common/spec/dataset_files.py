"""The forms of a dataset's path besides one file: a pattern, a folder, or a dataset on the Hugging Face hub.

A pattern has the syntax of bash: ``shard-{000..019}.tar`` and ``{train,val}/*.tar`` name several files. The files are read in the
order of their paths.
"""

import errno
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import escape, glob, has_magic

from common.digests import digest_record
from common.errors import ConfigError, explain_unreadable
from common.storage.addresses import is_remote
from common.storage.files import digest_content, is_file, is_folder
from common.storage.remote_files import iterate_remote_folder

HUB_SCHEME = "hf://"
IMAGE_ENDINGS = frozenset(
    ".avif .bmp .dib .gif .ico .j2k .jfif .jp2 .jpe .jpeg .jpg .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)
VIDEO_ENDINGS = frozenset(".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ts .webm .wmv".split())  # noqa: SIM905
MOST_FILES = 100_000

# ``Dataset.save_to_disk`` writes SAVED_DATASET, and ``DatasetDict.save_to_disk`` writes SAVED_SPLITS.
SAVED_DATASET = "state.json"
SAVED_SPLITS = "dataset_dict.json"

_BRACES = re.compile(r"\{([^{}]*)\}")
_STARS_IN_NAME = re.compile(r"(?<=[^/])\*\*|\*\*(?=[^/])")  # within a name, two stars mean one star
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_hub(path: str) -> bool:
    """Return whether a path names a dataset on the Hugging Face hub, as in ``hf://ORGANIZATION/NAME``."""
    return path.startswith(HUB_SCHEME)


def expand_braces(pattern: str) -> list[str]:
    """Return the texts that the braces of a pattern give, in order. Raises ``ConfigError`` for more than ``MOST_FILES`` texts."""
    texts, rest = [""], pattern
    while found := _BRACES.search(rest):
        before, inner, rest = rest[: found.start()], found[1], rest[found.end() :]
        choices = _expand_choice(inner, pattern)
        if len(texts) * len(choices) > MOST_FILES:
            raise _too_many(pattern)
        texts = [text + before + choice for text in texts for choice in choices]
    return [text + rest for text in texts]


def _expand_choice(inner: str, pattern: str) -> list[str]:
    if bounds := _RANGE.fullmatch(inner):
        first, last = int(bounds[1]), int(bounds[2])
        if abs(last - first) >= MOST_FILES:
            raise _too_many(pattern)
        width = max(map(len, bounds.groups())) if any(text[0] == "0" and len(text) > 1 for text in bounds.groups()) else 0
        step = 1 if first <= last else -1
        return [str(number).zfill(width) for number in range(first, last + step, step)]
    return inner.split(",") if "," in inner else ["{" + inner + "}"]


def _too_many(pattern: str) -> ConfigError:
    return ConfigError(f"{pattern}: names more than {MOST_FILES:,} files; expected a smaller range in braces")


def find_matches(pattern: str) -> list[str]:
    """Return the files that a pattern with braces and wildcards names.

    Raises ``FileNotFoundError`` if a text that the braces give does not name a file.
    """
    found: list[str] = []
    for text in expand_braces(pattern):
        matches = _expand_wildcards(text) if has_magic(text) else [text]
        if not any(map(is_file, matches)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
        found += matches
    return found


def _expand_wildcards(pattern: str) -> list[str]:
    """Return the files that a pattern with wildcards names. ``**`` is any number of folders.

    Each folder is visited once. Python's ``glob`` follows a link to a parent folder 40 times, and does not end if there are two
    such links.
    """
    pattern = _STARS_IN_NAME.sub("*", pattern)
    if is_remote(pattern):
        return list(_match_remote(pattern))
    before, stars, after = pattern.partition("**")
    if not stars:
        return [path for path in glob(pattern) if os.path.isfile(path)]
    folders = (inner for folder in glob(before or "./") for inner in _iterate_folders(folder.rstrip("/") or "/"))
    found = (path for inner in folders for path in _expand_wildcards(f"{escape(inner)}{after or '/*'}"))
    return list(dict.fromkeys(found))


def _match_remote(pattern: str) -> Iterator[str]:
    """Yield the objects that a pattern with wildcards names."""
    steps = pattern.split("/")
    first = next((number for number, step in enumerate(steps) if has_magic(step)), len(steps) - 1)
    folder, wanted = "/".join(steps[:first]), steps[first:]
    if wanted[-1] == "**":
        wanted.append("*")
    for name in iterate_remote_folder(folder):
        if _fits(name.split("/"), wanted):
            yield f"{folder}/{name}"


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether the steps of a path match the steps of a pattern. As in bash, wildcards do not match hidden names."""
    if not (names and patterns):
        return not names and not patterns
    (name, *others), (pattern, *rest) = names, patterns
    is_hidden = name.startswith(".") and not pattern.startswith(".")
    if pattern == "**":
        return _fits(names, rest) or (not is_hidden and _fits(others, patterns))
    return not is_hidden and fnmatchcase(name, pattern) and _fits(others, rest)


def _iterate_folders(folder: str) -> Iterator[str]:
    """Yield a folder and the folders below it, each once. Folders that only a link names come last. Hidden folders are skipped.

    Raises ``ConfigError`` for a folder that cannot be read.
    """
    seen: set[str] = set()
    waiting = deque([folder])
    while waiting:
        one = waiting.popleft()
        if (real := os.path.realpath(one)) in seen:
            continue
        seen.add(real)
        yield one
        try:
            entries = list(os.scandir(one))
        except OSError as error:
            raise explain_unreadable(error, f"{one} cannot be read: {error.strerror}; check its permissions") from error
        inner = [entry for entry in entries if os.path.isdir(entry.path) and not entry.name.startswith(".")]
        waiting.extendleft(entry.path for entry in inner if not entry.is_symlink())
        waiting.extend(entry.path for entry in inner if entry.is_symlink())


def names_any_file(pattern: str) -> bool:
    """Return whether at least one of the texts that the braces of a pattern give names a file."""
    return any(is_file(path) for text in expand_braces(pattern) for path in _expand_wildcards(text))


def iterate_folder(folder: str) -> Iterator[str]:
    """Yield the relative path of each file in a folder and its subfolders, sorted. Hidden files and folders are skipped.

    Links to folders are not followed, because they may form a loop. They are yielded like files. Raises ``OSError``.
    """
    if is_remote(folder):
        names = iterate_remote_folder(folder)
        yield from (name for name in names if not any(step.startswith(".") for step in name.split("/")))
    else:
        yield from _iterate_entries(folder, "")


def _iterate_entries(folder: str, inside: str) -> Iterator[str]:
    with os.scandir(os.path.join(folder, inside)) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries if not entry.name.startswith("."))
    for name, has_entries in found:
        if has_entries:
            yield from _iterate_entries(folder, f"{inside}{name}/")
        else:
            yield inside + name


def has_media_ending(name: str) -> bool:
    """Return whether a file's name has the ending of an image or a video."""
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS | VIDEO_ENDINGS


def find_folder_format(path: str) -> str | None:
    """Return the format of a folder or a hub address, or None for any other path.

    The first media file of a folder determines whether it is a folder of images or of videos.
    """
    if is_hub(path):
        return "huggingface"
    if not is_folder(path):
        return None
    if any(is_file(os.path.join(path, name)) for name in (SAVED_DATASET, SAVED_SPLITS)):
        return "huggingface"
    for name in iterate_folder(path):
        ending = os.path.splitext(name)[1].lower()
        if ending in IMAGE_ENDINGS:
            return "image_folder"
        if ending in VIDEO_ENDINGS:
            return "video_folder"
    return None


def digest_folder(folder: str) -> str:
    """Return the digest of a folder: the names of all its files, and the content of its files that are not media.

    ``DatasetSource.media_digest`` covers the content of the media. Raises ``OSError``.
    """
    names = list(iterate_folder(folder))
    return digest_record({name: None if has_media_ending(name) else _digest_if_file(os.path.join(folder, name)) for name in names})


def _digest_if_file(path: str) -> str | None:
    return digest_content(path) if is_file(path) else None
