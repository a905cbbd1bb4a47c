"""The files of a dataset's path: one file, a folder, a pattern, or a dataset on the Hugging Face hub.

A pattern follows bash: ``shard-{000..019}.tar`` and ``{train,val}/*.tar`` name several files. Braces keep their order, and the
matches of ``*``, ``?``, ``[…]`` and ``**`` are sorted by name.
"""

import os
import re
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path

from common.digests import digest_file, digest_record
from common.errors import ConfigError

HUB_SCHEME = "hf://"
IMAGE_ENDINGS = frozenset(
    ".avif .bmp .dib .gif .ico .j2k .jfif .jp2 .jpe .jpeg .jpg .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)
VIDEO_ENDINGS = frozenset(".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ts .webm .wmv".split())  # noqa: SIM905
MOST_FILES = 100_000

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_hub(path: str) -> bool:
    """Return whether a path names a dataset on the Hugging Face hub, as in ``hf://ORGANIZATION/NAME``."""
    return path.startswith(HUB_SCHEME)


def is_pattern(path: str) -> bool:
    """Return whether a path contains braces or wildcards. A file with such a name is not a pattern."""
    return (has_magic(path) or _BRACES.search(path) is not None) and not os.path.exists(path)


def derive_name(path: str) -> str:
    """Return the default name of a dataset: the file's name without its suffix."""
    if not (has_magic(path) or "{" in path):
        return Path(path).stem
    names = [re.sub(r"-*[^A-Za-z0-9._-]+-*", "-", part).strip("-._") for part in (Path(path).stem, Path(path).parent.name)]
    return next(filter(None, names), "dataset")[:64]


def expand_braces(pattern: str) -> list[str]:
    """Return the texts that a pattern with braces names, in order. Raises ``ConfigError`` for more than ``MOST_FILES`` texts."""
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


def find_files(path: str) -> list[str]:
    """Return the files that a path or pattern names. A file that braces name is listed even if it does not exist."""
    if not is_pattern(path):
        return [path]
    return [name for text in expand_braces(path) for name in (sorted(glob(text, recursive=True)) if has_magic(text) else [text])]


def exists(path: str) -> bool:
    """Return whether a path names a file or a folder, or a pattern names at least one file."""
    return os.path.isfile(path) or os.path.isdir(path) or (is_pattern(path) and any(map(os.path.isfile, find_files(path))))


def find_folder(path: str) -> str:
    """Return the folder of a dataset: the path if it is a folder, else the folder above the file or above all wildcards."""
    if os.path.isdir(path):
        return path
    folder = Path(path).parent
    while is_pattern(str(folder)) and folder != folder.parent:
        folder = folder.parent
    return str(folder)


def iterate_folder(folder: str) -> Iterator[str]:
    """Yield the relative path of each file in a folder and its subfolders, sorted. Hidden files and folders are skipped.

    Links to folders are not followed, because they may form a loop. They are yielded like files. Raises ``OSError``.
    """
    yield from _iterate_entries(folder, "")


def _iterate_entries(folder: str, inside: str) -> Iterator[str]:
    with os.scandir(os.path.join(folder, inside)) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries if not entry.name.startswith("."))
    for name, is_folder in found:
        if is_folder:
            yield from _iterate_entries(folder, f"{inside}{name}/")
        else:
            yield inside + name


def has_media_ending(name: str) -> bool:
    """Return whether a file's name ends like an image or a video."""
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS | VIDEO_ENDINGS


def digest_files(path: str) -> str:
    """Return the digest of a dataset's files. Raises ``OSError`` for a file that cannot be read.

    In a folder, an image or video counts with its relative path. Its content counts in ``DatasetSource.media_digest``. A missing
    file counts as missing. A dataset on the hub counts with its address.
    """
    if is_hub(path):
        return digest_record(path)
    if os.path.isfile(path):
        return digest_file(Path(path))
    if os.path.isdir(path):
        names = list(iterate_folder(path))
        whole = {name: None if has_media_ending(name) else _digest_if_file(os.path.join(path, name)) for name in names}
    else:
        whole = {str(number): _digest_if_file(name) for number, name in enumerate(find_files(path))}
    return digest_record(whole)


def _digest_if_file(path: str) -> str | None:
    return digest_file(Path(path)) if os.path.isfile(path) else None
