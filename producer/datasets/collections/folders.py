"""The report of files that no reader uses. An enqueue reads a dataset several times, and logs each report once."""

from collections import Counter

import structlog

from common.spec.models import DatasetSource

log = structlog.get_logger()

_logged: set[tuple[object, ...]] = set()  # the reports of this enqueue


def start_reports() -> None:
    """Forget the reports of an earlier enqueue of this process."""
    _logged.clear()


def is_new_report(*report: object) -> bool:
    """Return whether this enqueue has not logged a report."""
    is_new = report not in _logged
    _logged.add(report)
    return is_new


def report_skipped(source: DatasetSource, skipped: Counter[str], hint: str) -> None:
    """Log the files that a reader does not use, as counts by ending."""
    if skipped and is_new_report("skipped", source.name, source.path, *sorted(skipped.items())):
        log.warning(
            "dataset.files_skipped",
            dataset=source.name,
            path=source.path,
            files=skipped.total(),
            endings=dict(sorted(skipped.items())),
            hint=hint,
        )


def report_doubled(source: DatasetSource, doubled: list[str]) -> None:
    """Log the captions ``a.jpg.txt`` of images that also have ``a.txt``."""
    if doubled and is_new_report("doubled", source.name, source.path, len(doubled), doubled[0]):
        log.warning(
            "dataset.captions_doubled",
            dataset=source.name,
            path=source.path,
            files=len(doubled),
            first=doubled[0],
            hint="the images have a second caption without the ending of the image, which is used; remove one of the two",
        )
