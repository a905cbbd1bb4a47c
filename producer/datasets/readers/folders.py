"""Folders as datasets: their format by content, and the report of files that no reader uses."""

from collections import Counter
from functools import cache
from pathlib import Path

import structlog

from common.spec.dataset_files import IMAGE_ENDINGS, VIDEO_ENDINGS, is_hub, iterate_folder
from common.spec.models import DatasetSource

log = structlog.get_logger()

# ``Dataset.save_to_disk`` writes the first, ``DatasetDict.save_to_disk`` the second.
SAVED_DATASET = "state.json"
SAVED_SPLITS = "dataset_dict.json"


def find_folder_format(path: str) -> str | None:
    """Return the format of a folder or a hub address, or None for any other path. The first media file of a folder decides."""
    if is_hub(path):
        return "huggingface"
    folder = Path(path)
    if not folder.is_dir():
        return None
    if (folder / SAVED_DATASET).is_file() or (folder / SAVED_SPLITS).is_file():
        return "huggingface"
    for name in iterate_folder(path):
        ending = Path(name).suffix.lower()
        if ending in IMAGE_ENDINGS:
            return "image_folder"
        if ending in VIDEO_ENDINGS:
            return "video_folder"
    return None


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
