"""Read webdataset tar shards: one row for each group of members with the same key.

Source: https://github.com/webdataset/webdataset (``webdataset/tariterators.py``, ``base_plus_ext`` and ``group_by_keys``). The
key of a member is its path up to the first dot of the last component. The rest of the name is its extension, in lower case. Members
with the same key are consecutive. Members without a key and members named ``__…__`` are skipped. img2dataset
(https://github.com/rom1504/img2dataset) writes ``.jpg``, ``.txt`` (the caption) and ``.json`` for each key.

Images and videos become byte ranges of the tar, so they are not copied. A ``.json`` member adds its fields to the row. Another text
member (``.txt``, ``.cls``, …) is a field named after its extension. If a row does not have a target, ``.txt`` is its target, else
``.cls``.
"""

import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from common.digests import digest_stream
from common.errors import UNAVAILABLE, ConfigError, SampleError, TransientError
from common.records import Media
from common.spec.dataset_files import IMAGE_ENDINGS, VIDEO_ENDINGS
from common.spec.models import DatasetSource
from common.storage.files import open_file
from producer.datasets.collections.folders import report_skipped
from producer.datasets.collections.sidecars import check_name, check_text_size, complete_row, decode_text, read_object, show_name
from producer.datasets.media import MediaKind, Reference
from producer.datasets.registry import register_reader
from producer.datasets.rows import Reading, Row, find_fault, plan_reading

_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_SKIPPED_NAME = re.compile(r"(.*/)?__[^/]*__(/|$)")
_TEXT_ENDINGS = frozenset({".txt", ".text", ".cls", ".caption"})
_TARGETS = ("txt", "cls")  # in order of preference
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass
class _Shard:
    """An open tar. ``skipped`` counts the members that no row uses."""

    source: DatasetSource
    path: str
    stream: BinaryIO
    size: int
    skipped: Counter[str]

    @property
    def name(self) -> str:
        return show_name(Path(self.path).name)


@dataclass
class _Group:
    """The members of one key.

    - ``media`` lists the images and videos in order.
    - ``fields`` contains the fields of ``.json`` members, and ``texts`` maps an extension to the text of its member.
    - ``extensions`` lists the extensions of all members.
    - ``error`` is the first error of the group, or None.
    """

    key: str
    media: list[Reference] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    extensions: list[str] = field(default_factory=list)
    error: SampleError | None = None


@register_reader("webdataset", endings=(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"))
def read_webdataset(source: DatasetSource) -> Iterator[Row]:
    """Yield a row for each key of a shard. A shard that cannot be read becomes one invalid row."""
    reading = plan_reading(source)
    skipped: Counter[str] = Counter()
    for number, group in enumerate(_read_shard(source, source.path, skipped)):
        yield _to_row(group, number, source.path, reading)
    report_skipped(source, skipped, "no row uses these members: they are neither media nor .json, .txt or .cls, or have no key")


def _to_row(group: _Group, number: int, path: str, reading: Reading) -> Row:
    shard = show_name(Path(path).name)
    key = show_name(group.key)
    place = ": ".join([*([shard] if shard != Path(reading.source.path).name else []), key or "the tar"])
    row = Row(number, place, f"{shard}: {key}".encode(), media=group.media)
    error = group.error
    if error is None and not group.media:
        error = SampleError("bad_media", f"no image or video among its members (.{', .'.join(group.extensions)}); expected one")
    if error:
        row.fault = find_fault(reading.source, place, error)
    target = next((name for name in _TARGETS if name in group.texts), None)
    row.fields = {
        **group.fields,
        **{name: text for name, text in group.texts.items() if name != target},
        "__key__": key,
    }
    complete_row(row, reading, f"{shard.removesuffix('.tar')}/{key}", (target, group.texts[target]) if target else None)
    return row


def _read_shard(source: DatasetSource, path: str, skipped: Counter[str]) -> Iterator[_Group]:
    try:
        with open_file(path) as stream:
            _refuse_compressed(source, path, stream.read(max(map(len, _COMPRESSED))))
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            yield from _read_groups(_Shard(source, path, stream, size, skipped))
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}; check that the shard exists, and its permissions"
        if error.errno in UNAVAILABLE:
            raise TransientError(f"dataset {source.name!r}: {message}") from error
        yield _Group("", error=SampleError("bad_row", message))


def _refuse_compressed(source: DatasetSource, path: str, begin: bytes) -> None:
    if kind := next((kind for magic, kind in _COMPRESSED.items() if begin.startswith(magic)), None):
        raise ConfigError(
            f"dataset {source.name!r}: path: {path} is compressed with {kind}; expected an uncompressed tar, because workers read "
            "its images as byte ranges; unpack it to a .tar"
        )


def _read_groups(shard: _Shard) -> Iterator[_Group]:
    """Yield the groups of a shard. If the tar is damaged or cut off, the last group has an error."""
    seen: set[str] = set()
    group: _Group | None = None
    try:
        for member in _iterate_members(shard):
            if member.isdir():
                continue
            key, extension = _split_name(member.name)
            if not key:
                shard.skipped["without a key"] += 1
                continue
            if group is None or group.key != key:
                if group:
                    yield group
                group = _Group(key)
                if key in seen:
                    group.error = SampleError("bad_row", "the key is used twice in the shard; expected its members side by side")
                seen.add(key)
            _add_member(group, member, extension, shard)
    except (tarfile.TarError, SampleError) as error:
        group = group or _Group("")  # the last group gets the error, because members of its key may be missing
        group.error = group.error or SampleError("bad_row", f"{error}; members after it are missing: restore the shard")
    if group:
        yield group


def _iterate_members(shard: _Shard) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar in order, in constant memory. Raises ``SampleError`` or ``TarError`` if it is damaged."""
    with tarfile.open(fileobj=shard.stream, mode="r:", errors="surrogateescape") as tar:
        while member := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # TarFile keeps all members
            yield member
        # TarFile ignores a damaged header and a missing end.
        shard.stream.seek(tar.offset)
        block = shard.stream.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise SampleError("bad_row", "the tar has no end-of-archive block; it is cut off")
        if any(block):
            raise SampleError("bad_row", f"not a tar header at byte {tar.offset}")


def _split_name(path: str) -> tuple[str, str]:
    """Return the key and the extension of a member, or two empty texts for a member without a key."""
    name = path.removeprefix("./")
    found = None if _SKIPPED_NAME.match(name) else _NAME.fullmatch(name)
    return (found[1], found[2].lower()) if found else ("", "")


def _add_member(group: _Group, member: tarfile.TarInfo, extension: str, shard: _Shard) -> None:
    """Add a member to its group. Set the error of the group for the first invalid member."""
    try:
        _check_member(group, member, extension, shard)
        group.extensions.append(extension)
        ending = "." + extension.rpartition(".")[2]
        if kind := _find_kind(ending):
            group.media.append(_refer(member, kind, shard))
        elif ending == ".json" or ending in _TEXT_ENDINGS:
            _add_text(group, member, extension, shard)
        else:
            shard.skipped[ending] += 1
    except SampleError as error:
        group.error = group.error or error


def _check_member(group: _Group, member: tarfile.TarInfo, extension: str, shard: _Shard) -> None:
    check_name(member.name)
    if member.islnk() or member.issym():
        kind = "hard link" if member.islnk() else "symbolic link"
        found = f"is a {kind} to {show_name(member.linkname)!r}; expected the file itself: make the tar with --hard-dereference -h"
    elif member.issparse():
        found = "is a sparse file; expected a plain file: make the tar without --sparse"
    elif not member.isreg():
        found = "is not a file; expected a plain file"
    elif extension in group.extensions:
        found = f"is the second member with the extension .{extension}; expected one"
    elif member.offset_data + member.size > shard.size:
        found = "the tar ends inside this member; the members after it are missing: restore the shard"
    else:
        return
    raise SampleError("bad_media", f"{member.name}: {found}")


def _find_kind(ending: str) -> MediaKind | None:
    if ending in IMAGE_ENDINGS:
        return "image"
    return "video" if ending in VIDEO_ENDINGS else None


def _refer(member: tarfile.TarInfo, kind: MediaKind, shard: _Shard) -> Reference:
    media = Media(kind=kind, uri=shard.path, offset=member.offset_data, length=member.size)
    if shard.source.digest_media == "never":
        return Reference(media, f"{kind}:{shard.name}/{member.name}")
    shard.stream.seek(member.offset_data)
    digest = digest_stream(shard.stream, member.size)
    return Reference(media.model_copy(update={"digest": digest}), f"{kind}@{digest}")


def _add_text(group: _Group, member: tarfile.TarInfo, extension: str, shard: _Shard) -> None:
    check_text_size(member.size, member.name)
    shard.stream.seek(member.offset_data)
    content = shard.stream.read(member.size)
    name, _, ending = extension.rpartition(".")
    if ending != "json":
        group.texts[name or ending] = decode_text(content, member.name).strip()
    elif name:
        group.fields[name] = read_object(content, member.name, shard.source)
    else:
        group.fields |= read_object(content, member.name, shard.source)
