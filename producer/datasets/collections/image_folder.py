"""Read a folder of images or videos: one row per file, in the order of the relative paths. Hidden files are skipped.

The layout follows ``imagefolder`` and ``videofolder`` of Hugging Face datasets
(https://huggingface.co/docs/datasets/image_dataset#imagefolder): ``metadata.jsonl`` or ``metadata.csv`` has a row for each
file, and ``file_name`` is the path relative to the metadata file. Several rows may name the same file, with different questions. As
with ``kohya-ss/sd-scripts`` and img2dataset, ``a.txt`` or ``a.jpg.txt`` beside ``a.jpg`` is its caption, and ``a.json`` contains
its fields. ``producer export --format captions`` writes ``a.jpg.txt``.

Other files that no row uses are counted, and the log reports their number.
"""

import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from common.errors import ConfigError, SampleError, explain_unreadable
from common.records import Media
from common.spec.dataset_files import IMAGE_ENDINGS, VIDEO_ENDINGS, iterate_folder
from common.spec.models import DatasetSource
from common.storage.files import is_folder
from producer.datasets.collections.folders import report_doubled, report_skipped
from producer.datasets.collections.sidecars import (
    check_name,
    complete_row,
    decode_text,
    read_below,
    read_object,
    show_name,
)
from producer.datasets.media import MediaKind, Reference
from producer.datasets.readers.csv_table import read_records_below_header
from producer.datasets.readers.jsonl import read_jsonl
from producer.datasets.registry import register_reader
from producer.datasets.rows import Reading, Row, find_fault, plan_reading

_ENDINGS: dict[MediaKind, frozenset[str]] = {"image": IMAGE_ENDINGS, "video": VIDEO_ENDINGS}


@dataclass
class _Folder:
    """A folder while it is read.

    - ``names`` lists its files in order.
    - ``number`` is the number of the next row.
    - ``used`` contains the files that a row uses.
    - ``doubled`` lists the captions that are not used because the image has another caption.
    """

    reading: Reading
    kind: MediaKind
    names: dict[str, None]
    number: int = 0
    used: set[str] = field(default_factory=set)
    doubled: list[str] = field(default_factory=list)

    @property
    def source(self) -> DatasetSource:
        return self.reading.source

    def find_path(self, name: str) -> str:
        return posixpath.join(self.source.path, name)

    def start_row(self, place: int | str, content: bytes) -> Row:
        row = Row(self.number, place, content)
        self.number += 1
        return row


@register_reader("image_folder", folders=True)
def read_image_folder(source: DatasetSource) -> Iterator[Row]:
    """Yield a row for each image of a folder and its subfolders."""
    return _read_folder(source, "image")


@register_reader("video_folder", folders=True)
def read_video_folder(source: DatasetSource) -> Iterator[Row]:
    """Yield a row for each video of a folder and its subfolders."""
    return _read_folder(source, "video")


def _read_folder(source: DatasetSource, kind: MediaKind) -> Iterator[Row]:
    if not is_folder(source.path):
        raise ConfigError(f"dataset {source.name!r}: path: {source.path} is not a folder; expected a folder of {kind}s")
    try:
        names = dict.fromkeys(iterate_folder(source.path))
    except OSError as error:
        message = f"dataset {source.name!r}: path: {error.filename} cannot be read ({error.strerror}); check its permissions"
        raise explain_unreadable(error, message) from None
    folder = _Folder(plan_reading(source), kind, names)
    for name in names:
        if PurePosixPath(name).name in _METADATA_READERS:
            folder.used.add(name)
            yield from _read_metadata(folder, name)
    media = [name for name in names if _find_ending(name) in _ENDINGS[kind] and name not in folder.used]
    for name in media:
        row = folder.start_row(show_name(name), name.encode("utf-8", "surrogateescape"))
        _fill_row(folder, row, name, name)
        yield row
    report_doubled(source, folder.doubled)
    skipped = Counter(_find_ending(name) or "none" for name in names if name not in folder.used)
    report_skipped(source, skipped, f"no row uses these files: they are neither {kind}s nor files that describe one")


def _read_metadata(folder: _Folder, metadata: str) -> Iterator[Row]:
    """Yield a row for each row of a metadata file. The metadata file describes files in its own folder and in the folders below."""
    inside = str(PurePosixPath(metadata).parent).removeprefix(".")
    times: Counter[str] = Counter()
    described = folder.source.model_copy(update={"path": folder.find_path(metadata)})
    for found in _METADATA_READERS[PurePosixPath(metadata).name](described):
        row = folder.start_row(f"{show_name(metadata)}: line {found.line}", found.content)
        row.fields, row.fault = dict(found.fields), found.fault
        file_name = row.fields.get("file_name")
        name = str(PurePosixPath(inside, file_name)) if isinstance(file_name, str) and file_name else ""
        times[name] += 1
        if row.fault is None:
            _fill_described(folder, row, name, name if times[name] == 1 else f"{name}#{times[name]}")
        yield row


def _fill_described(folder: _Folder, row: Row, name: str, index: str) -> None:
    expected = "expected the path of a file, relative to the metadata file's folder"
    if not name:
        error = SampleError("bad_media", f"absent or not text; {expected}")
    elif name not in folder.names:
        error = SampleError("media_missing", f"found {name[:200]!r}, which is not a file in the dataset's folder; {expected}")
    elif _find_ending(name) not in _ENDINGS[folder.kind]:
        error = SampleError("bad_media", f"found {name[:200]!r}, which has no ending of {folder.kind} files; {expected}")
    else:
        _fill_row(folder, row, name, index)
        return
    row.fault = find_fault(folder.source, row.line, error, "file_name")


def _fill_row(folder: _Folder, row: Row, name: str, index: str) -> None:
    """Set the media of a row, and add the fields and the caption from the files beside the image or video.

    An invalid file beside it is a fault of the row.
    """
    folder.used.add(name)
    stem = str(PurePosixPath(name).with_suffix(""))
    own = dict(row.fields)
    caption: tuple[str, str] | None = None
    try:
        check_name(name)
        row.media = [Reference(Media(kind=folder.kind, uri=folder.find_path(name)), f"{folder.kind}:{name}")]
        if (described := f"{stem}.json") in folder.names:
            folder.used.add(described)
            row.fields = read_object(read_below(folder.find_path(described), folder.source), described, folder.source) | own
        texts = [text for text in dict.fromkeys((f"{stem}.txt", f"{name}.txt")) if text in folder.names]
        folder.used.update(texts)
        folder.doubled += texts[1:]
        if texts:
            text = texts[0]
            caption = ("caption", decode_text(read_below(folder.find_path(text), folder.source), text).strip())
    except SampleError as error:
        row.fault = row.fault or find_fault(folder.source, row.line, error)
    complete_row(row, folder.reading, show_name(index), caption)
    row.metadata.setdefault("file_name", show_name(name))


def _read_csv(source: DatasetSource) -> Iterator[Row]:
    table = source.model_copy(update={"fields": {}})  # a file beside the image may have a mapped field that the table does not have
    return read_records_below_header(table, b",", partial(_check_header, source))


def _check_header(source: DatasetSource, header: tuple[str, ...]) -> None:
    if "file_name" not in header:
        where = f"dataset {source.name!r}: {source.path}"
        raise ConfigError(f"{where}: the header has no column 'file_name'; found {', '.join(header)}; add the column")


_METADATA_READERS = {"metadata.jsonl": read_jsonl, "metadata.csv": _read_csv}


def _find_ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
