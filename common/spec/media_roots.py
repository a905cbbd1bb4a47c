"""The folders from which the media of a run may be read. Workers enforce them, and enqueueing warns about files outside them."""

import os
from collections.abc import Sequence
from pathlib import Path

from common.errors import ConfigError
from common.settings import Settings
from common.spec.dataset_files import is_hub
from common.spec.models import DatasetSource
from common.spec.prompts import Example


def find_media_roots(settings: Settings, datasets: Sequence[DatasetSource], examples: Sequence[Example] = ()) -> tuple[Path, ...]:
    """Return the allowed folders of a run.

    ``FLEET_MEDIA_ROOTS`` takes precedence. If it is not set, these are allowed: each dataset's ``media_root``, a dataset that is a
    folder, the folder of a dataset's file, and the folders of the images in the ``examples`` of the prompt. Raises ``ConfigError``
    if the variable contains a relative path, or no path at all.
    """
    if settings.media_roots:
        return _read_roots(settings.media_roots)
    named = [Path(source.media_root) for source in datasets if source.media_root]
    files = [file for source in datasets for file in source.all_files if file != source.media_root and not is_hub(file)]
    own = [_find_folder(Path(file)) for file in files]
    shown = [Path(path).parent for example in examples for path in example.images]
    return tuple(dict.fromkeys((*named, *own, *shown)))


def _find_folder(path: Path) -> Path:
    """Return the folder of a file, or the path itself if it is a folder."""
    return path if path.is_dir() else path.parent


def _read_roots(text: str) -> tuple[Path, ...]:
    folders = tuple(Path(folder) for folder in text.split(os.pathsep) if folder)
    wrong = [str(folder) for folder in folders if not folder.is_absolute()]
    if wrong or not folders:
        found = wrong[0] if wrong else text
        raise ConfigError(f"FLEET_MEDIA_ROOTS: found {found!r}; expected absolute paths of folders, separated by {os.pathsep!r}")
    return folders
