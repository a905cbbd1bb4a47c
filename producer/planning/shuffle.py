"""The seeded global shuffle. It puts the samples of all datasets in random order, keeps groups together and merges duplicates.

Samples are sorted by a seeded hash of their group, so the order depends only on the seed and the samples, not on the order
of the files or the available memory. The sort is external: samples are written to 256 buckets on disk by the first byte of
the hash, and one bucket at a time is sorted in memory. Buckets contain the places of long lines (``long_lines``).

Rows of one dataset with the same request are sent once. The first row is the sample, and the other rows become its twins. Such
rows may have different groups, so a first pass merges them. It sorts all rows into separate buckets by a digest of their request.
A request can have as many twins as a dataset has rows, so twins stay on disk (``twins``).
"""

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from common.digests import digest_bytes
from common.errors import ConfigError, IntegrityError
from common.records import DatasetCounts, Fault, Sample
from producer.planning.long_lines import LongLine, keep_line, read_line
from producer.planning.twins import TwinBlock, TwinFile, encode_line

_HEADER = struct.Struct("<16s16sQHQHI?I")
_PLACE = struct.Struct("<QQ")
_READ_BYTES = 2**20
_ENCODER = msgspec.json.Encoder()
_UNKNOWN_MEDIA_BYTES = 200_000  # assumed for a media file of unknown size; planning does not open media files


class Spread(NamedTuple):
    """One sample in the shuffle.

    - ``order`` is the hash of the sample's group.
    - ``row`` is the sample's position among the rows of all datasets.
    - ``dataset`` is the number of its dataset.
    - ``line`` is the sample as JSON with a newline, or the place of that line if it is long.
    - ``twin_key`` is the digest of its request, kind and options (``digest_twin_key``). Rows with equal keys are twins.
    - ``twins`` are the blocks of its twins in the file of twins.
    """

    order: bytes
    row: int
    dataset: int
    input_bytes: int
    sample_id: bytes
    line: bytes | LongLine
    twin_key: bytes = bytes(16)
    twins: tuple[TwinBlock, ...] = ()


@dataclass
class Counts:
    """Rows, unique samples and faulty rows of each dataset, by dataset number. The shuffle fills them while it runs."""

    names: list[str]
    rows: list[int] = field(init=False)
    unique: list[int] = field(init=False)
    faults: Counter[str] = field(default_factory=Counter)  # rows by the code of their fault
    faulty: list[int] = field(init=False)
    first_faults: dict[int, Fault] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = [0] * len(self.names)
        self.unique = [0] * len(self.names)
        self.faulty = [0] * len(self.names)

    def count_row(self, dataset: int, fault: Fault | None) -> None:
        self.rows[dataset] += 1
        if fault is not None:
            self.faulty[dataset] += 1
            self.faults[fault.code] += 1
            self.first_faults.setdefault(dataset, fault)

    def check_faults(self) -> None:
        """Raise ``ConfigError`` if all rows of a dataset are faulty, because its format or its ``fields`` do not fit."""
        for dataset, fault in self.first_faults.items():
            if self.faulty[dataset] == self.rows[dataset]:
                raise ConfigError(
                    f"dataset {self.names[dataset]!r}: all of its rows are faulty ({self.rows[dataset]:,}). The first fault: "
                    f"{fault.code}: {fault.message}. Correct the file, or map its columns with fields: {{NAME: COLUMN}}"
                )

    def to_records(self) -> tuple[DatasetCounts, ...]:
        return tuple(
            DatasetCounts(name=name, rows=rows, unique=unique, duplicates=rows - unique)
            for name, rows, unique in zip(self.names, self.rows, self.unique, strict=True)
        )


def shuffle_samples(
    samples: Iterable[Sample], counts: Counts, *, seed: int, scratch: Path, twins: TwinFile
) -> Iterator[list[Spread]]:
    """Yield groups in shuffled order. A group lists its samples in row order. The twins of a sample are the rows with its request.

    ``scratch`` is an empty folder on a local disk with enough free space for the samples as JSON. Do not delete its file of long
    lines before these lines are read. ``twins`` gets the twins. Memory holds about 1/256 of the short lines, and one long line.
    Raises ``ConfigError`` if all rows of a dataset are faulty.
    """
    long = scratch / "long"
    _write_buckets(_spread(samples, counts, seed, long), attrgetter("twin_key"), scratch / "twin_key")
    counts.check_faults()
    _write_buckets(_merge_twins(scratch / "twin_key", long, twins), attrgetter("order"), scratch / "order")
    for entries in _read_buckets(scratch / "order", long):
        for _, together in groupby(sorted(entries), key=attrgetter("order")):
            group = list(_separate_ids(together, long))
            for entry in group:
                counts.unique[entry.dataset] += 1
            yield group


def _spread(samples: Iterable[Sample], counts: Counts, seed: int, long: Path) -> Iterator[Spread]:
    numbers = {name: number for number, name in enumerate(counts.names)}
    for row, sample in enumerate(samples):
        dataset = numbers[sample.dataset]
        counts.count_row(dataset, sample.fault)
        line = sample.model_dump_json(exclude_defaults=True).encode() + b"\n"
        sample_id, input_bytes = sample.sample_id.encode(), estimate_input_bytes(sample, line)
        order, twin_key = _hash_group(seed, sample), digest_twin_key(sample)
        yield Spread(order, row, dataset, input_bytes, sample_id, keep_line(line, long), twin_key)


def _merge_twins(folder: Path, long: Path, twins: TwinFile) -> Iterator[Spread]:
    """Yield one entry for all rows with the same request: the first row, with the other rows as its twins."""
    for entries in _read_buckets(folder, long):
        samples: dict[bytes, Spread] = {}
        for entry in entries:
            sample = samples.setdefault(entry.twin_key, entry)
            if sample is not entry:
                twins.add(entry.twin_key, sample.line, entry.line)
        blocks = twins.take_blocks()
        for twin_key, sample in samples.items():
            yield sample._replace(twins=tuple(blocks.get(twin_key, ())))


def _separate_ids(group: Iterable[Spread], long: Path) -> Iterator[Spread]:
    """Yield the entries of a group, each with a different ``sample_id``.

    Rows with the same id can have different requests: if the prompt shows metadata, or if their relative paths start at different
    folders. Rows with the same id are always in the same group. The first row keeps the id. Each other row gets an id from its
    request.
    """
    taken: set[bytes] = set()
    for entry in group:
        if entry.sample_id in taken:
            sample = json.loads(read_line(entry.line))
            sample["sample_id"] = digest_bytes(entry.sample_id + entry.twin_key)
            entry = entry._replace(sample_id=sample["sample_id"].encode(), line=keep_line(encode_line(sample), long))
        taken.add(entry.sample_id)
        yield entry


def _write_buckets(entries: Iterable[Spread], key: Callable[[Spread], bytes], folder: Path) -> None:
    """Write each entry to the bucket of the first byte of its key. Buckets keep the order of the entries."""
    folder.mkdir()
    with ExitStack() as stack:
        buckets: dict[int, BinaryIO] = {}
        for entry in entries:
            number = key(entry)[0]
            if number not in buckets:
                buckets[number] = stack.enter_context((folder / f"{number:02x}").open("wb"))
            line, is_long = (entry.line, False) if isinstance(entry.line, bytes) else (_PLACE.pack(*entry.line[1:]), True)
            numbers = (entry.row, entry.dataset, entry.input_bytes, len(entry.sample_id), len(line), is_long, len(entry.twins))
            twins = b"".join(_PLACE.pack(*block) for block in entry.twins)
            buckets[number].write(_HEADER.pack(entry.order, entry.twin_key, *numbers) + entry.sample_id + line + twins)


def _read_buckets(folder: Path, long: Path) -> Iterator[Iterator[Spread]]:
    """Yield the entries of each bucket, and delete the bucket and the folder."""
    for bucket in sorted(folder.iterdir()):
        yield _read_bucket(bucket, long)
        bucket.unlink()
    folder.rmdir()


def _read_bucket(path: Path, long: Path) -> Iterator[Spread]:
    with path.open("rb", _READ_BYTES) as stream:
        while header := stream.read(_HEADER.size):
            order, twin_key, row, dataset, input_bytes, id_length, line_length, is_long, blocks = _HEADER.unpack(header)
            sample_id, content = stream.read(id_length), stream.read(line_length)
            line = LongLine(long, *_PLACE.unpack(content)) if is_long else content
            twins = tuple(TwinBlock(*place) for place in _PLACE.iter_unpack(stream.read(blocks * _PLACE.size)))
            yield Spread(order, row, dataset, input_bytes, sample_id, line, twin_key, twins)


def digest_twin_key(sample: Sample) -> bytes:
    """Return the digest of a row's request, kind and options. A faulty row has no request, so the digest uses its ``sample_id``.

    Raises ``IntegrityError`` for a sample without the digest of its request.
    """
    request = sample.sample_id if sample.fault else sample.request_digest
    if request is None:
        raise IntegrityError(
            f"row {sample.index} of dataset {sample.dataset!r} has no digest of its request; pass samples to "
            "producer.planning.requests.render_samples before planning"
        )
    fields = (sample.dataset, request, sample.fault is None, sample.kind, list(sample.options.items()))
    return hashlib.blake2b(_ENCODER.encode(fields), digest_size=16).digest()


def _hash_group(seed: int, sample: Sample) -> bytes:
    named = f"{seed}\0{sample.dataset}\0{sample.group or sample.sample_id}"
    return hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def estimate_input_bytes(sample: Sample, line: bytes) -> int:
    """Estimate the bytes that a worker holds in memory for the sample: its line, and the media that the line does not contain."""
    return len(line) + sum((media.length or _UNKNOWN_MEDIA_BYTES) for media in sample.media if media.data is None)
