"""Log events about files in a folder or tar that a reader does not use."""

from collections import Counter
from functools import cache

import structlog

from common.spec.models import DatasetSource

log = structlog.get_logger()


def report_skipped(source: DatasetSource, skipped: Counter[str], hint: str) -> None:
    """Log the files that a reader does not use, as counts by ending. A dataset that is read twice logs once."""
    if skipped:
        _log_skipped(source.name, source.path, tuple(sorted(skipped.items())), hint)


@cache
def _log_skipped(dataset: str, path: str, endings: tuple[tuple[str, int], ...], hint: str) -> None:
    log.warning(
        "dataset.files_skipped",
        dataset=dataset,
        path=path,
        files=sum(count for _, count in endings),
        endings=dict(endings),
        hint=hint,
    )


def report_doubled(source: DatasetSource, doubled: list[str]) -> None:
    """Log the captions ``a.jpg.txt`` of images that also have a caption ``a.txt``."""
    if doubled:
        _log_doubled(source.name, source.path, len(doubled), doubled[0])


@cache
def _log_doubled(dataset: str, path: str, files: int, first: str) -> None:
    log.warning(
        "dataset.captions_doubled",
        dataset=dataset,
        path=path,
        files=files,
        first=first,
        hint="these images also have a caption without the ending of the image (a.txt), which is used; remove one of the two",
    )
