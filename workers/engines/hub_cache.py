"""Find models from the Hugging Face hub in the local cache. This module does not download."""

import re
from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}")


def find_snapshot(hub_id: str, revision: str | None, *, cache: str | None = None) -> Path | None:
    """Return the folder of a model in the local cache, or ``None`` if it is not cached. ``cache`` replaces the default folder.

    Raises ``OSError`` if the cache cannot be read.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(hub_id, revision=revision, cache_dir=cache, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError):
        return None


def read_blob_name(path: Path) -> str | None:
    """Return the SHA-256 of a large file in the hub's cache, or ``None`` for any other file.

    The name of a large file's blob is its SHA-256. The names of small files' blobs are Git digests.
    """
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None
