"""The content of a dataset's media files, as one digest that counts in the run id.

Files that a row names by path can change in place. Up to a limit, their content counts. Above the limit, they count by path
only, and a log event reports that. The size and time of a file never count, because they are not its content.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import structlog

from common.digests import digest_record
from common.errors import SampleError
from common.spec.models import DatasetSource, RunSpec
from producer.datasets.media import Reference, digest_path, find_path, find_size, refer
from producer.datasets.registry import find_reader
from producer.datasets.rows import MEDIA_KINDS, Reading, Row, plan_reading

log = structlog.get_logger()

# A local disk reads 8,000 files or 800 MB in a second (docs/identity.md), so enqueueing takes at most about 5 s longer.
MOST_FILES = 20_000
MOST_BYTES = 4 * 2**30


def digest_media(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Return the specs of one spec file with the media digests of their datasets. All specs have the same datasets."""
    datasets = tuple(map(_digest_source, specs[0].datasets))
    return [spec.model_copy(update={"datasets": datasets}) for spec in specs]


def _digest_source(source: DatasetSource) -> DatasetSource:
    if source.digest_media == "never":
        paths: dict[str, str] = {}
    else:
        most = MOST_FILES if source.digest_media == "auto" else None
        # A key is the path as written in the row, so a dataset keeps its digest when it is moved.
        paths = dict(islice(_iterate_files(source), most + 1 if most else None))
        if most and (len(paths) > most or sum(find_size(path) or 0 for path in paths) > MOST_BYTES):
            log.warning(
                "media.named_by_path",
                dataset=source.name,
                hint=f"more than {MOST_FILES:,} files or {MOST_BYTES >> 30} GiB: they count by path, not by content, and changes "
                "of the files are not detected; set digest_media: always to count their content",
            )
            paths = {}
    digests = {key: digest for path, key in paths.items() if (digest := digest_path(path))}
    if missing := len(paths) - len(digests):
        log.warning(
            "media.named_by_path", dataset=source.name, files=missing, hint="not readable here: they count by path, not by content"
        )
    return source.model_copy(update={"media_digest": digest_record(digests) if digests else None})


def _iterate_files(source: DatasetSource) -> Iterator[tuple[str, str]]:
    """Yield the path of each media file that the rows name, once, with its content key."""
    reading = plan_reading(source)
    seen: set[str] = set()
    for row in islice(find_reader(source)(source), source.limit):
        for reference in _iterate_references(row, row.reading or reading):
            path = find_path(reference.media)
            if path and path not in seen:
                seen.add(path)
                yield path, reference.key


def _iterate_references(row: Row, reading: Reading) -> Iterator[Reference]:
    yield from row.media
    for name, value in row.fields.items():
        if kind := MEDIA_KINDS.get(reading.ours.get(name, "")):
            for text in value if isinstance(value, list) else (value,):
                if isinstance(text, str) and text and not text.isspace() and text[:5].lower() != "data:":
                    try:
                        yield refer(text, kind, reading.root)
                    except SampleError:  # the row gets a fault when it is read
                        continue
