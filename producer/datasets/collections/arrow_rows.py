"""Convert rows with the features of Hugging Face datasets to fields and media.

Source of the features: https://huggingface.co/docs/datasets/about_dataset_features and ``Features.to_dict``. An ``Image`` or
``Video`` is ``{"bytes": …, "path": …}``. A ``ClassLabel`` is the number of one of its names, or -1 for no label.
"""

import base64
import mmap
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from math import isfinite
from typing import Any

from common.digests import digest_bytes
from common.errors import SampleError
from common.records import Media
from producer.datasets.fields import misfit
from producer.datasets.media import INLINE_LIMIT_BYTES, MediaKind, Reference, refer
from producer.datasets.readers.jsonl import mend_value
from producer.datasets.rows import MEDIA_KINDS, Reading, Row, find_fault
from producer.datasets.values.media_columns import number_media, order_numbered, read_number

Feature = Any  # a mapping with "_type", a mapping of features by name, or a list with one feature

_MEDIA_TYPES: dict[str, MediaKind] = {"Image": "image", "Video": "video"}
_BYTES = ("binary", "large_binary")
_LISTS = frozenset({"List", "LargeList", "Sequence"})


@dataclass
class ArrowFile:
    """A file with an Arrow stream. If the stream is not compressed, the file contains the bytes of the images unchanged."""

    path: str
    content: mmap.mmap
    positions: dict[str, int] = field(default_factory=dict)
    has_ranges: bool = True

    def find(self, payload: bytes, column: str) -> int | None:
        """Return the offset of a payload, or None. The search continues after the column's last payload."""
        if not self.has_ranges or not payload:
            return None
        found = self.content.find(payload, self.positions.get(column, 0))
        if found < 0:
            self.has_ranges = False  # the stream is compressed, so no later search succeeds
            return None
        self.positions[column] = found + len(payload)
        return found


@dataclass
class RowShape:
    """The rules for the rows of a dataset: its features, and the columns that become media.

    ``skipped`` counts the values with bytes that are not used.
    """

    reading: Reading
    features: dict[str, Feature]
    skipped: Counter[str] = field(default_factory=Counter)

    def find_kind(self, column: str) -> MediaKind | None:
        """Return the kind of a media column, or None for another column.

        If the source maps columns to this kind, only the mapped columns are media columns.
        """
        if column in self.reading.source.ignore:
            return None
        feature = self.features.get(column)
        kind = find_media_kind(feature) or find_media_kind(find_inner(feature))
        if kind is None and isinstance(feature, dict) and feature.get("dtype") in _BYTES:
            kind = MEDIA_KINDS.get(self.reading.ours.get(column, ""))
        mapped = [theirs for ours, theirs in self.reading.source.fields.items() if kind and MEDIA_KINDS.get(ours) == kind]
        return None if mapped and column not in mapped else kind


def find_media_kind(feature: Feature) -> MediaKind | None:
    return (
        _MEDIA_TYPES.get(feature.get("_type", "")) if isinstance(feature, dict) and isinstance(feature.get("_type"), str) else None
    )


def find_inner(feature: Feature) -> Feature:
    """Return the feature of the elements of a list, or None for any other feature."""
    if isinstance(feature, list):
        return feature[0] if feature else None
    if isinstance(feature, dict) and feature.get("_type") in _LISTS:
        return feature.get("feature")
    return None


def fill_row(row: Row, values: dict[str, Any], shape: RowShape, file: ArrowFile | None) -> None:
    """Set the fields, media and fault of a row. ``file`` is the Arrow file of the row, or None if workers cannot read it."""
    fields: dict[str, Any] = {}
    media: dict[str, list[Reference]] = {}
    for column in order_numbered(values):
        value, kind = values[column], shape.find_kind(column)
        try:
            if kind is None and shape.reading.ours.get(column) == "messages":
                fields[column] = mend_value(value)  # its parts keep the bytes of their images
                continue
            if kind is None:
                fields[column] = to_plain(value, shape.features.get(column), shape.skipped)
                continue
            for one in value if isinstance(value, list) else [value]:
                if one is not None:
                    media.setdefault(column, []).extend(_read_media(one, kind, column, shape.reading, file))
        except SampleError as error:
            row.fault = row.fault or find_fault(shape.reading.source, row.line, error, column)
    row.media = _join_media({column: references for column, references in media.items() if references})
    row.fields = fields


def _join_media(media: dict[str, list[Reference]]) -> list[Reference]:
    """Return the media of all columns, in the order of the columns. If all columns are numbered, the media keep their numbers."""
    are_numbered = all(read_number(column) for column in media) and len({one.media.kind for one in chain(*media.values())}) == 1
    return number_media(media) if are_numbered else list(chain(*media.values()))


def _read_media(value: Any, kind: MediaKind, column: str, reading: Reading, file: ArrowFile | None) -> list[Reference]:
    payload, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(payload, bytes):
        return [_embed(payload, kind, column, file)]
    if payload is not None:
        raise misfit(payload, f"the bytes of the {kind}")
    return [refer(path, kind, reading.root)] if isinstance(path, str) and path else []


def _embed(payload: bytes, kind: MediaKind, column: str, file: ArrowFile | None) -> Reference:
    digest = digest_bytes(payload)
    offset = file.find(payload, column) if file and len(payload) > INLINE_LIMIT_BYTES else None
    if file is None or offset is None:
        media = Media(kind=kind, data=base64.b64encode(payload).decode("ascii"), digest=digest)
    else:
        media = Media(kind=kind, uri=file.path, offset=offset, length=len(payload), digest=digest)
    return Reference(media, f"{kind}@{digest}")


def to_plain(value: Any, feature: Feature, skipped: Counter[str]) -> Any:
    """Return a value with the types of JSON. Bytes become None and are counted in ``skipped``. Raises ``SampleError``."""
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        return _to_label(value, feature.get("names") or [])
    if isinstance(value, dict):
        inner = find_inner(feature)  # a Sequence of mappings is stored as a mapping of lists
        features = {name: [one] for name, one in inner.items()} if isinstance(inner, dict) else feature
        known = features if isinstance(features, dict) else {}
        return {name: to_plain(one, known.get(name), skipped) for name, one in value.items()}
    if isinstance(value, list):
        return [to_plain(one, find_inner(feature), skipped) for one in value]
    if isinstance(value, bytes):
        skipped["bytes"] += 1
        return None
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _to_label(value: Any, names: list[str]) -> str | None:
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise misfit(value, f"the number of a class from 0 to {len(names) - 1}, or -1")
    return names[value]
