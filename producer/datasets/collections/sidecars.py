"""Files that belong to another file or to a row: text and JSON beside an image, a caption in a tar, the table of a question."""

import os
import stat
from pathlib import Path
from typing import Any

from common.errors import UNAVAILABLE, SampleError, TransientError
from common.settings import get_settings
from common.spec.media_roots import find_media_roots
from common.spec.models import DatasetSource
from common.storage.addresses import is_below, is_remote
from common.storage.remote_files import read_remote
from producer.datasets.readers.jsonl import fill_row
from producer.datasets.rows import MEDIA_KINDS, Reading, Row

TEXT_LIMIT_BYTES = 8 * 2**20
FILE_NAME = "file_name"  # the field of a metadata file that names the media of its row
CLASS = "cls"  # the field with the class of an image in webdataset shards


def read_below(path: str, source: DatasetSource) -> bytes:
    """Return the content of a text file that a row names, at most ``TEXT_LIMIT_BYTES``.

    The file must be in a folder from which media may be read: a folder of ``FLEET_MEDIA_ROOTS``, or by default the folder of the
    dataset or its ``media_root``. Without this check, a row could send any file of this machine to the model. Raises
    ``SampleError``, and ``TransientError`` if the file system is unavailable.
    """
    roots = find_media_roots(get_settings(), [source])
    real = path if is_remote(path) else os.path.realpath(path)
    if not any(_is_in(real, root) for root in roots):
        message = f"{path}: outside the folders that files may be read from ({', '.join(roots)}); set the dataset's media_root"
        raise SampleError("media_forbidden", message)
    try:
        if is_remote(path):
            return read_remote(path, 0, None, lambda size: check_text_size(size, path))
        if not stat.S_ISREG(os.stat(real).st_mode):  # noqa: PTH116  the path is text
            raise SampleError("media_unreadable", f"{path}: not a file; expected a text file")
        with Path(real).open("rb") as stream:
            content = stream.read(TEXT_LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise SampleError("media_missing", f"{path}: no such file; check the dataset's folder, or set media_root") from None
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror}; check its permissions"
        if error.errno in UNAVAILABLE:
            raise TransientError(message) from error
        raise SampleError("media_unreadable", message) from error
    check_text_size(len(content), path)
    return content


def _is_in(path: str, root: str) -> bool:
    return is_below(path, root) if is_remote(path) or is_remote(root) else Path(path).is_relative_to(os.path.realpath(root))


def check_text_size(size: int, name: str) -> None:
    """Raise ``SampleError`` if a text file exceeds ``TEXT_LIMIT_BYTES``."""
    if size > TEXT_LIMIT_BYTES:
        raise SampleError("bad_field", f"{name}: longer than {TEXT_LIMIT_BYTES:,} bytes; expected a shorter text")


def decode_text(content: bytes, name: str) -> str:
    """Return text in UTF-8 without a byte-order mark. Raises ``SampleError`` for another encoding."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SampleError("bad_field", f"{name}: not UTF-8 (byte {error.start + 1}); save the file in UTF-8") from None


def complete_row(row: Row, reading: Reading, index: str, caption: tuple[str, str] | None) -> None:
    """Add the index and the caption of a row that already has its media.

    - ``caption`` is the name of the caption's field and its text. The caption becomes the target, unless the row has a target. If
      the target is a caption and not the class of an image (``cls``), the kind of the row is ``free_text``.
    - Fields that name media become metadata, because the row already has its media.
    - An id in the row's own fields takes precedence over ``index``.
    """
    mapped = reading.source.fields
    fields = {}
    for name, value in row.fields.items():
        if name not in mapped.values() and (name == FILE_NAME or reading.ours.get(name) in MEDIA_KINDS):
            row.metadata[name] = value
        else:
            fields[name] = value
    present = {reading.ours.get(name) for name, value in fields.items() if value is not None}
    if "id" not in mapped and "id" not in present:
        fields["id"] = index
    if caption:
        name, text = caption
        is_target = "target" not in mapped and "target" not in present
        fields["target" if is_target else name] = text
        if name != CLASS and text and (is_target or mapped.get("target") == name):
            row.kind = "free_text"
    row.fields = fields


def read_object(content: bytes, name: str, source: DatasetSource) -> dict[str, Any]:
    """Return the fields of a JSON object in a file. Raises ``SampleError``, whose message names the file."""
    row = Row(0, name, content)
    try:
        fill_row(row, source)
    except SampleError as error:
        raise SampleError(error.code, f"{name}: {error}") from None
    if row.fault:
        raise SampleError(row.fault.code, row.fault.message)
    return dict(row.fields)


def show_name(name: str) -> str:
    """Return a file's name as text that UTF-8 can encode. Other bytes become U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def check_name(name: str) -> None:
    """Raise ``SampleError`` for a file's name that is not UTF-8, because a plan cannot contain it."""
    if show_name(name) != name:
        raise SampleError("bad_media", f"the name of the file {show_name(name)!r} is not UTF-8; rename the file")
