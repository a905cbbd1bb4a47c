"""The media columns of a row: numbered columns, and several columns that name the same media."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, get_args

from common.errors import SampleError
from producer.datasets.fields import is_blank
from producer.datasets.media import MediaKind, Reference, find_path
from producer.datasets.media_files import find_digest
from producer.datasets.rows import MEDIA_KINDS, Reading, Row

Found = Mapping[str, tuple[str, Any]]
ReadColumn = Callable[[str, Any, MediaKind], list[Reference]]

# The field that contains the numbered columns of a row, by kind. Its value is a ``NumberedColumns``.
NUMBERED: dict[MediaKind, str] = {"image": "numbered images", "video": "numbered videos"}
_NUMBERED_NAME = re.compile(r"(image|video)[ _-]?([0-9]{1,3})")


class NumberedColumns(dict[str, Any]):
    """The values of the numbered columns of a row, by column, in the order of the numbers. Columns without a value are left out."""


@lru_cache(maxsize=4096)
def read_number(name: str) -> tuple[MediaKind, int] | None:
    """Return the kind and the number of a column such as ``image_1``, ``image1`` or ``image 1``, or None for any other name."""
    found = _NUMBERED_NAME.fullmatch(name)
    return ("image" if found[1] == "image" else "video", int(found[2])) if found else None


def find_numbered(fields: Mapping[str, Any], reading: Reading) -> tuple[dict[str, NumberedColumns], list[str]]:
    """Return the numbered columns of a row by the field in ``NUMBERED``, without blank values, and the names of all of them.

    If the source maps a column to a kind of media, no numbered column of this kind is read.
    """
    kinds = {name: found[0] for name in fields if name not in reading.ours and (found := read_number(name))}
    names = [name for name in kinds if not _is_mapped(kinds[name], reading)]
    columns: dict[str, NumberedColumns] = {}
    for name in order_numbered(names):
        if name not in reading.source.ignore and not is_blank(fields[name]):
            columns.setdefault(NUMBERED[kinds[name]], NumberedColumns())[name] = fields[name]
    return columns, names


def order_numbered(names: Iterable[str]) -> list[str]:
    """Return the names with the numbered columns of each kind in order. The other columns keep their places."""
    ordered = list(names)
    for kind in get_args(MediaKind):
        numbers = {name: found[1] for name in ordered if (found := read_number(name)) and found[0] == kind}
        in_order = iter(sorted(numbers, key=numbers.__getitem__))
        ordered = [next(in_order) if name in numbers else name for name in ordered]
    return ordered


def number_media(columns: Mapping[str, Sequence[Reference]]) -> list[Reference]:
    """Return the media of numbered columns in order.

    Raises ``SampleError`` if two columns have the same number, or if the numbers are unclear because a column has several media.

    If numbers are missing, each image or video gets the number of its column, so that ``<image 3>`` is the image of ``image_3``.
    """
    numbers = {name: found[1] if (found := read_number(name)) else 0 for name in columns}
    names = sorted(columns, key=numbers.__getitem__)
    for first, second in pairwise(names):
        if numbers[first] == numbers[second]:
            message = f"has the same number as column {first!r}; expected one column for each number; {_advise(first, second)}"
            raise SampleError("bad_field", message)
    media = [(numbers[name], reference) for name in names for reference in columns[name]]
    several = [name for name in names if len(columns[name]) > 1]
    if several and [numbers[name] for name in names] != [1]:
        count = f"column {several[0]!r} has {len(columns[several[0]])} media, so the numbers of the media are unclear"
        raise SampleError("bad_field", f"{count}; expected one in each numbered column, or all in one column without a number")
    if several or [number for number, _ in media] == list(range(1, len(names) + 1)):
        return [reference for _, reference in media]
    return [Reference(one.media.model_copy(update={"number": number}), one.key) for number, one in media]


def list_media_columns(found: Found) -> Iterator[tuple[MediaKind, str, Any]]:
    """Yield the kind, the name and the value of each column that fills a media field."""
    for ours, kind in MEDIA_KINDS.items():
        if ours in found:
            yield kind, *found[ours]
    for kind, ours in NUMBERED.items():
        columns = found[ours][1] if ours in found else {}
        yield from ((kind, name, value) for name, value in columns.items())


def list_own_media(row: Row, found: Found, metadata: Mapping[str, Any], reading: Reading, read: ReadColumn) -> list[Reference]:
    """Return the media of a row's own fields: the media that its format gives, then the images, then the videos.

    ``read`` returns the media in a column. Raises ``SampleError`` if two columns name different media of one kind. Embedded media
    take precedence over paths. ``image_path`` may name missing files, because it also names the place of images in other kits.
    """
    media = list(row.media)
    for kind in get_args(MediaKind):
        is_mapped = _is_mapped(kind, reading)
        given = [] if is_mapped else [reference for reference in row.media if reference.media.kind == kind]
        chosen, source = given, ""
        for ours, name, value in _list_columns(kind, found, metadata, reading, row):
            references = _read_column(name, value, kind, read)
            if chosen and references and not _agree(chosen, references, may_be_missing=ours == "image_path"):
                raise _explain_difference(kind, (source, chosen), (name, references))
            if not chosen or (not given and _are_embedded(references) and not _are_embedded(chosen)):
                chosen, source = references, name
        media += [] if given else chosen
    return media


def _is_mapped(kind: MediaKind, reading: Reading) -> bool:
    return any(MEDIA_KINDS.get(ours) == kind for ours in reading.source.fields)


def _list_columns(
    kind: MediaKind, found: Found, metadata: Mapping[str, Any], reading: Reading, row: Row
) -> Iterator[tuple[str, str, Any]]:
    """Yield the columns that name media of a kind in order of preference: our field, the name of the column, and its value.

    A mapped column with a value is the only one. A second name of the same field is in the metadata (``sort_fields``).
    """
    fields = [ours for ours, one in MEDIA_KINDS.items() if one == kind and ours in found]
    if mapped := [ours for ours in fields if ours in reading.source.fields]:
        yield mapped[0], *found[mapped[0]]
        return
    for ours in fields:
        yield ours, *found[ours]
        others = [name for name in reading.names[ours] if name in row.fields and not is_blank(metadata.get(name))]
        yield from ((ours, name, metadata[name]) for name in others)
    if NUMBERED[kind] in found:
        yield NUMBERED[kind], *found[NUMBERED[kind]]


def _read_column(name: str, value: Any, kind: MediaKind, read: ReadColumn) -> list[Reference]:
    if isinstance(value, NumberedColumns):
        return number_media({column: read(column, one, kind) for column, one in value.items()})
    return read(name, value, kind)


def _agree(first: Sequence[Reference], second: Sequence[Reference], *, may_be_missing: bool) -> bool:
    """Return whether two columns may name the same media. A path beside embedded media is the name of their file."""
    return len(first) == len(second) and all(
        one.key == other.key
        or _are_embedded([one]) != _are_embedded([other])
        or _have_one_content(one, other, may_be_missing=may_be_missing)
        for one, other in zip(first, second, strict=True)
    )


def _have_one_content(first: Reference, second: Reference, *, may_be_missing: bool) -> bool:
    digest = _digest_reference(second)
    return may_be_missing if digest is None else digest == _digest_reference(first)


def _digest_reference(reference: Reference) -> str | None:
    path = find_path(reference.media)
    return reference.media.digest or (find_digest(path) if path else None)


def _are_embedded(references: Sequence[Reference]) -> bool:
    return bool(references) and all(one.media.data is not None or one.media.offset is not None for one in references)


def _explain_difference(
    kind: MediaKind, first: tuple[str, Sequence[Reference]], second: tuple[str, Sequence[Reference]]
) -> SampleError:
    counts = [f"{len(one)} {kind}{'' if len(one) == 1 else 's'}" for _, one in (first, second)]
    found = counts[1] if counts[0] != counts[1] else f"another {kind}" if len(first[1]) == 1 else f"other {kind}s"
    place, advice = (
        (f"column {first[0]!r} names {counts[0]}", _advise(first[0], second[0]))
        if first[0]
        else (f"the format gives {counts[0]}", f"leave the column out with ignore: [{second[0]}]")
    )
    return SampleError("bad_field", f"names {found}, and {place}; expected the same {kind}s in both; {advice}")


def _advise(first: str, second: str) -> str:
    return f"leave one of them out with ignore: [{first}] or ignore: [{second}]"
