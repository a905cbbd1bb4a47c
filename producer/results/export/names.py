"""The names of exported files. A name is a relative path that always stays below the output folder."""

import os
import posixpath
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from common.errors import ConfigError
from common.records import Media, Sample
from common.spec.models import DatasetSource, RunSpec
from common.storage.addresses import is_below, is_remote
from common.storage.run_record import PlannedRun
from common.storage.store import Store
from producer.datasets.media import find_path
from producer.results.export.choices import Naming
from producer.results.rows import PlannedRow, read_rows

_LONGEST_BYTES = 251  # file systems allow 255 bytes, and a format adds an ending such as .txt
_ADVICE = {
    Naming.FILE: "use --names path to keep the folders of the images, or --names id if rows share an image",
    Naming.PATH: "these rows share an image: use --names id to name each file after its row's id",
    Naming.ID: "give each row its own id, for example with the fields: {id: COLUMN} of the dataset",
}


class Namer:
    """The names of a run's rows.

    With ``path`` and ``id``, a run of several datasets has one folder for each dataset.
    """

    def __init__(self, spec: RunSpec, naming: Naming) -> None:
        self._naming = naming
        self._sources = {source.name: source for source in spec.datasets}

    def name_row(self, row: PlannedRow) -> str | None:
        """Return the row's name, such as ``shape.png``, or None if it has no usable name.

        Unless rows are named after their ids, an embedded image and a row without media have no name. A name that is too long for a
        file system is not usable.
        """
        if self._naming is Naming.ID:
            path: str | None = row.index
        else:
            path = _find_media_path(row.media, self._sources[row.sample.dataset]) if row.media else None
        name = _confine(path or "")
        if not name or "\0" in name or any(len(os.fsencode(part)) > _LONGEST_BYTES for part in name.split("/")):
            return None
        if self._naming is Naming.FILE:
            return posixpath.basename(name)
        return f"{row.sample.dataset}/{name}" if len(self._sources) > 1 else name

    def check_names(self, run: PlannedRun, store: Store) -> None:
        """Raise ``ConfigError`` if rows of two samples have the same name, or if no row has a name."""
        seen: set[str] = set()
        for name, row in self._iterate_named(run, store):
            if name in seen:
                first = next(other for known, other in self._iterate_named(run, store) if known == name)
                raise ConfigError(
                    f"two rows have the file name {name!r}: {_place(first)}, and {_place(row)}; expected one file for each row; "
                    f"{_ADVICE[self._naming]}"
                )
            seen.add(name)
        if not seen:
            raise ConfigError(
                f"run {run.run_id}: no row has an image file with a name (images may be embedded in the dataset); "
                "expected at least one; use --names id to name each file after its row's id"
            )

    def _iterate_named(self, run: PlannedRun, store: Store) -> Iterator[tuple[str, PlannedRow]]:
        repeats = Repeats()
        for row in read_rows(run, store):
            name = self.name_row(row)
            if name is not None and not repeats.contains(row, name):
                yield name, row


class Repeats:
    """The names of the rows of one sample. Rows of a sample with the same name share a file, because their text is the same."""

    def __init__(self) -> None:
        self._sample: Sample | None = None
        self._names: set[str] = set()

    def contains(self, row: PlannedRow, name: str) -> bool:
        """Return whether an earlier row of the same sample has this name. Rows of a sample are adjacent."""
        if row.sample is not self._sample:
            self._sample, self._names = row.sample, set()
        is_repeated = name in self._names
        self._names.add(name)
        return is_repeated


def _place(row: PlannedRow) -> str:
    return row.describe() + (f" ({row.media.uri})" if row.media and row.media.uri else "")


def _find_media_path(media: Media, source: DatasetSource) -> str | None:
    """Return the path of a media file relative to the media root of its dataset, or its whole path if it is outside that folder.

    For a URL, return its host and path.
    """
    path, root = find_path(media), source.media_root or posixpath.dirname(source.path)
    if path is None or (is_remote(path) and not is_below(path, root)):
        if media.uri is None or media.offset is not None:
            return None
        parts = urlsplit(media.uri)
        return f"{parts.netloc}/{unquote(parts.path)}" if parts.path.strip("/") else None
    whole, root = PurePosixPath(posixpath.normpath(path)), posixpath.normpath(root)
    return str(whole.relative_to(root)) if whole.is_relative_to(root) else str(whole)


def _confine(path: str) -> str:
    """Return the path without a root, ``.`` and ``..``, so that it stays below the folder to which it is joined."""
    return posixpath.normpath(f"/{path}").lstrip("/")
