"""The folders from which the media of a run may be read. Workers enforce them, and enqueueing warns about files outside them.

A folder in object storage is an address such as ``s3://BUCKET/PREFIX``.
"""

import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

from common.errors import ConfigError
from common.settings import Settings
from common.spec.dataset_files import is_hub
from common.spec.models import DatasetSource
from common.spec.prompts import Example
from common.storage.addresses import REMOTE_SCHEMES, is_remote, normalize_address

_ROOT = re.compile(rf"(?:(?:{'|'.join(REMOTE_SCHEMES)})://)?[^{os.pathsep}]+", re.IGNORECASE)


def find_media_roots(settings: Settings, datasets: Sequence[DatasetSource], examples: Sequence[Example] = ()) -> tuple[str, ...]:
    """Return the allowed folders of a run.

    ``FLEET_MEDIA_ROOTS`` takes precedence. If it is not set, these are allowed: each dataset's ``media_root``, a dataset that is a
    folder, the folder of a dataset's file, and the folders of the images in the ``examples`` of the prompt. Raises ``ConfigError``
    if the variable contains a relative path, or no path at all.
    """
    if settings.media_roots:
        return _read_roots(settings.media_roots)
    named = [source.media_root for source in datasets if source.media_root]
    files = [file for source in datasets for file in source.all_files if file != source.media_root and not is_hub(file)]
    own = [_find_folder(file) for file in files]
    shown = [posixpath.dirname(path) for example in examples for path in example.images]
    return tuple(dict.fromkeys((*named, *own, *shown)))


def _find_folder(path: str) -> str:
    """Return the folder of a file, or the path itself if it is a folder. The address of a folder ends with ``/``."""
    return path if not is_remote(path) and Path(path).is_dir() else posixpath.dirname(path)


def _read_roots(text: str) -> tuple[str, ...]:
    folders = tuple(normalize_address(folder) if is_remote(folder) else folder for folder in _ROOT.findall(text))
    wrong = [folder for folder in folders if not (is_remote(folder) or Path(folder).is_absolute())]
    if wrong or not folders:
        found = wrong[0] if wrong else text
        expected = f"absolute paths of folders, or addresses such as s3://BUCKET/FOLDER, separated by {os.pathsep!r}"
        raise ConfigError(f"FLEET_MEDIA_ROOTS: found {found!r}; expected {expected}")
    return folders
