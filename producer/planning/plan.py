"""Plan a run: shuffle its samples, cut them into chunks, and write them to the store once."""

import errno
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from common.errors import ConfigError
from common.records import Plan, Sample
from common.spec.models import Chunks, RunSpec
from common.storage.keys import index_key, samples_key
from common.storage.plan_index import IndexBuilder
from common.storage.run_record import write_run
from common.storage.store import Store
from common.storage.twins import TwinsWriter, open_twins
from producer.datasets.survey import Notice
from producer.planning.long_lines import read_line
from producer.planning.shuffle import Counts, Spread, shuffle_samples
from producer.planning.twins import TwinFile, open_twin_file

log = structlog.get_logger()

_FEWEST_ALIKE = 2  # rows
_BLOCK_BYTES = 2**20


def plan_run(spec: RunSpec, samples: Iterable[Sample], store: Store) -> Plan:
    """Shuffle the samples and write the twins, the samples, the index and ``run.json`` in this order. Return the plan.

    Memory holds one bucket (about 1/256 of the samples, without embedded media) and the index. The same spec and samples give the
    same bytes, so a second planning, after a crash or by another producer, writes the same plan. ``run.json`` is written last. Its
    presence marks a complete plan. Raises ``ConfigError`` if there are no samples, or if all rows of a dataset are faulty.
    """
    counts = Counts([source.name for source in spec.datasets])
    with (
        open_scratch() as scratch,
        open_twin_file(scratch) as found,
        store.open_writer(samples_key(spec.run_id)) as writer,
        open_twins(store, spec.run_id) as twins,
    ):
        groups = shuffle_samples(samples, counts, seed=spec.shuffle.seed, scratch=scratch, twins=found)
        groups = _write_twins(groups, found, twins)
        index = write_chunks(groups, spec.chunks, datasets=len(spec.datasets), write=writer.write)
        if not index:
            raise ConfigError(
                f"nothing to run: no rows in {', '.join(source.path for source in spec.datasets)}; expected at least one"
            )
    store.put(index_key(spec.run_id), index.encode())
    for notice in find_alike(counts):
        log.warning("dataset.rows_alike", dataset=notice.dataset, rows=notice.rows, hint=notice.hint)
    plan = Plan(
        run_id=spec.run_id,
        samples=sum(counts.unique),
        chunks=len(index),
        datasets=counts.to_records(),
        faults=dict(counts.faults.most_common()),
        twins_bytes=twins.length,
    )
    write_run(spec, plan, store)
    return plan


def _write_twins(groups: Iterable[list[Spread]], found: TwinFile, twins: TwinsWriter) -> Iterator[list[Spread]]:
    """Yield groups in plan order unchanged, and write the twins of their samples."""
    positions = count()
    for group in groups:
        for entry, position in zip(group, positions, strict=False):
            for block in entry.twins:
                twins.write(position, found.read(block))
        yield group


@contextmanager
def open_scratch() -> Iterator[Path]:
    """Yield an empty temporary folder for the sort. Raises ``ConfigError`` if its disk is full."""
    try:
        with tempfile.TemporaryDirectory(prefix="vlm-fleet-plan-") as scratch:
            yield Path(scratch)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ConfigError(
            f"{tempfile.gettempdir()}: {error.strerror}; samples are sorted there; set TMPDIR to a folder with enough free space"
        ) from error


def describe_plan(spec: RunSpec, samples: Iterable[Sample]) -> dict[str, Any]:
    """Return the resolved spec, its digest and the counts that ``plan_run`` would find. It does not write to the store."""
    counts = Counts([source.name for source in spec.datasets])
    with open_scratch() as scratch, open_twin_file(scratch) as found:
        groups = shuffle_samples(samples, counts, seed=spec.shuffle.seed, scratch=scratch, twins=found)
        lengths = [len(chunk) for chunk in cut_chunks(groups, spec.chunks)]
    return {
        "run_id": spec.run_id,
        "digest": spec.digest(),
        "samples": sum(lengths),
        "chunks": len(lengths),
        "faults": counts.faults.total(),
        "faults_by_code": dict(counts.faults.most_common()),
        "datasets": [record.model_dump() for record in counts.to_records()],
        "notices": find_alike(counts),
        "spec": spec.model_dump(mode="json"),
    }


def find_alike(counts: Counts) -> list[Notice]:
    """Return a notice for each dataset with at most half as many different requests as rows.

    The column that distinguishes these rows is probably unused.
    """
    return [
        Notice(
            event="dataset.rows_alike",
            dataset=record.name,
            rows=record.rows,
            hint=f"the {record.rows:,} rows have only {record.unique:,} different requests, and each request is sent once; check "
            "that the columns of media and question are used",
        )
        for record in counts.to_records()
        if record.rows > _FEWEST_ALIKE and record.unique * 2 <= record.rows
    ]


def cut_chunks(groups: Iterable[list[Spread]], bounds: Chunks) -> Iterator[list[Spread]]:
    """Cut shuffled groups into chunks within ``bounds``. A group is split only if it does not fit into one chunk."""
    chunk: list[Spread] = []
    held_bytes = 0
    for group in groups:
        group_bytes = sum(entry.input_bytes for entry in group)
        if chunk and (len(chunk) + len(group) > bounds.max_samples or held_bytes + group_bytes > bounds.max_input_bytes):
            yield chunk
            chunk, held_bytes = [], 0
        for entry in group:
            if chunk and (len(chunk) >= bounds.max_samples or held_bytes + entry.input_bytes > bounds.max_input_bytes):
                yield chunk
                chunk, held_bytes = [], 0
            chunk.append(entry)
            held_bytes += entry.input_bytes
    if chunk:
        yield chunk


def write_chunks(
    groups: Iterable[list[Spread]],
    bounds: Chunks,
    *,
    datasets: int,
    write: Callable[[bytes], object],
    is_scattered: bool = False,
) -> IndexBuilder:
    """Cut groups into chunks within ``bounds``, pass the bytes of each chunk to ``write``, and return the chunks' index.

    ``datasets`` is the number of datasets. With ``is_scattered`` (a later wave), the ``row`` of an entry is its plan position.
    Otherwise plan positions are numbered from 0.
    """
    index = IndexBuilder()
    position = offset = 0
    for chunk in cut_chunks(groups, bounds):
        length, crc32 = _write_lines(chunk, write)
        by_dataset = np.bincount([entry.dataset for entry in chunk], minlength=datasets).astype(np.uint32)
        scattered = [entry.row for entry in chunk] if is_scattered else []
        first = scattered[0] if is_scattered else position
        index.append(length=length, crc32=crc32, first=first, offset=offset, datasets=by_dataset, scattered=scattered)
        position += len(chunk)
        offset += length
    return index


def _write_lines(chunk: list[Spread], write: Callable[[bytes], object]) -> tuple[int, int]:
    """Pass the lines of a chunk to ``write`` in blocks of about 1 MiB. Return their length in bytes and their CRC-32."""
    length = crc32 = 0
    block = bytearray()
    for number, entry in enumerate(chunk, start=1):
        block += read_line(entry.line)
        if len(block) >= _BLOCK_BYTES or number == len(chunk):
            length, crc32 = length + len(block), zlib.crc32(block, crc32)
            write(bytes(block))
            block.clear()
    return length, crc32
