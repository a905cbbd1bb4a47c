"""The seeded global shuffle. It puts the samples of all datasets in random order, keeps groups together and drops duplicates.

Samples are sorted by a seeded hash of their group, so the order depends only on the seed and the samples, not on the order
of the files or the available memory. The sort is external: samples are written to 256 buckets on disk by the first byte of
the hash, and one bucket at a time is sorted in memory.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple

from common.records import DatasetCounts, Sample

_HEADER = struct.Struct("<16sQHQHI")
_UNKNOWN_MEDIA_BYTES = 200_000  # assumed for a media file of unknown size; planning does not open media files


class Spread(NamedTuple):
    """One sample in the shuffle. ``order`` is the hash of the sample's group. ``line`` is the sample as JSON with a newline."""

    order: bytes
    row: int
    dataset: int
    input_bytes: int
    sample_id: bytes
    line: bytes


@dataclass
class Counts:
    """Rows and unique samples of each dataset, by dataset number. The shuffle fills them while it runs."""

    names: list[str]
    rows: list[int] = field(init=False)
    unique: list[int] = field(init=False)
    faults: int = 0

    def __post_init__(self) -> None:
        self.rows = [0] * len(self.names)
        self.unique = [0] * len(self.names)

    def to_records(self) -> tuple[DatasetCounts, ...]:
        return tuple(
            DatasetCounts(name=name, rows=rows, unique=unique, duplicates=rows - unique)
            for name, rows, unique in zip(self.names, self.rows, self.unique, strict=True)
        )


def shuffle_samples(samples: Iterable[Sample], counts: Counts, *, seed: int, scratch: Path) -> Iterator[list[Spread]]:
    """Yield groups in shuffled order. A group lists its samples in row order, without duplicates.

    ``scratch`` is an empty folder on a local disk with enough free space for the samples as JSON.
    """
    _spread(samples, counts, seed, scratch)
    for bucket in sorted(scratch.iterdir()):
        entries = sorted(_read_bucket(bucket))
        bucket.unlink()
        for _, together in groupby(entries, key=attrgetter("order")):
            group: dict[tuple[int, bytes], Spread] = {}
            for entry in together:
                if group.setdefault((entry.dataset, entry.sample_id), entry) is entry:
                    counts.unique[entry.dataset] += 1
            yield list(group.values())


def _spread(samples: Iterable[Sample], counts: Counts, seed: int, scratch: Path) -> None:
    """Write each sample to the bucket of its group's hash."""
    numbers = {name: number for number, name in enumerate(counts.names)}
    with ExitStack() as stack:
        buckets: dict[int, BinaryIO] = {}
        for row, sample in enumerate(samples):
            dataset = numbers[sample.dataset]
            counts.rows[dataset] += 1
            counts.faults += sample.fault is not None
            order = _hash_group(seed, sample)
            if order[0] not in buckets:
                buckets[order[0]] = stack.enter_context((scratch / f"{order[0]:02x}").open("wb"))
            line = sample.model_dump_json(exclude_defaults=True).encode() + b"\n"
            sample_id = sample.sample_id.encode()
            buckets[order[0]].write(
                _HEADER.pack(order, row, dataset, estimate_input_bytes(sample, line), len(sample_id), len(line)) + sample_id + line
            )


def _read_bucket(path: Path) -> Iterator[Spread]:
    content = path.read_bytes()
    at = 0
    while at < len(content):
        order, row, dataset, input_bytes, id_length, line_length = _HEADER.unpack_from(content, at)
        at += _HEADER.size
        end = at + id_length + line_length
        yield Spread(order, row, dataset, input_bytes, content[at : at + id_length], content[at + id_length : end])
        at = end


def _hash_group(seed: int, sample: Sample) -> bytes:
    named = f"{seed}\0{sample.dataset}\0{sample.group or sample.sample_id}"
    return hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def estimate_input_bytes(sample: Sample, line: bytes) -> int:
    """Estimate the bytes that a worker holds in memory for the sample: the line, and media that the line does not contain."""
    return len(line) + sum((media.length or _UNKNOWN_MEDIA_BYTES) for media in sample.media if media.data is None)
