"""Are a model's weights there, and whole?  Reads names, sizes and the headers of safetensors files, never the weights."""

import json
import os
from pathlib import Path

from workers.doctor.finding import GIB, Finding

_LENGTH_BYTES = 8
_LONGEST_HEADER_BYTES = 100_000_000  # the format's own bound
_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_YES = ("1", "true", "yes", "on")


def check_weights(weights: str, revision: str | None) -> Finding:
    """Return whether a model's folder, or what the local cache has of a hub id, is complete."""
    if weights.startswith(("/", ".")):
        return check_folder(Path(weights))
    try:
        folder = _find_in_cache(weights, revision)
    except OSError as error:
        said = f"what the local cache has of {weights} cannot be read: {error.strerror or error}"
        return Finding("weights", "problem", said, f"check the permissions of {find_hub_cache()}")
    if folder is not None:
        return check_folder(folder, hub_id=weights, revision=revision)
    download = _name_download(weights, revision)
    if any(os.environ.get(name, "").lower() in _YES for name in _OFFLINE):
        advice = f"download it where there is a network: {download}, then copy the cache; or unset HF_HUB_OFFLINE"
        return Finding("weights", "problem", f"{weights} is not in the local cache, and the hub is switched off", advice)
    return Finding("weights", "warning", f"{weights} is not in the local cache", f"download it before: {download}")


def check_folder(folder: Path, *, hub_id: str | None = None, revision: str | None = None) -> Finding:
    """Return whether a saved model is whole: its configuration, and every file that its index names, none of them cut short.

    ``hub_id`` and ``revision`` say what to download again, if it came from the hub.
    """
    said = f"{hub_id} in the cache" if hub_id else str(folder)
    advice = f"download it again: {_name_download(hub_id, revision)}" if hub_id else "copy the model again, with all its files"
    try:
        if not folder.is_dir():
            return Finding("weights", "problem", f"{said}: there is no such folder", advice)
        if not (folder / "config.json").is_file():
            return Finding("weights", "problem", f"{said}: there is no config.json in it", advice)
        files = sorted({path for pattern in _WEIGHT_FILES for path in folder.glob(pattern)})
        fault = _find_missing(folder) or next(filter(None, map(_find_damage, files)), None)
        size = sum(path.stat().st_size for path in files)
    except OSError as error:
        return Finding("weights", "problem", f"{said}: cannot be read: {error.strerror}", "check the permissions, also above it")
    if fault or not files:
        return Finding("weights", "problem", f"{said}: {fault or 'there are no weights in it'}", advice)
    return Finding("weights", "ok", f"{said}: {len(files)} file{'' if len(files) == 1 else 's'}, {size / GIB:.2f} GiB")


def find_hub_cache() -> Path | None:
    """Return where the hub's library keeps what it downloads, or ``None`` without that library."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return Path(constants.HF_HUB_CACHE)


def _name_download(hub_id: str, revision: str | None) -> str:
    return f"hf download {hub_id}" + (f" --revision {revision}" if revision else "")


def _find_in_cache(hub_id: str, revision: str | None) -> Path | None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError):
        return None


def _find_missing(folder: Path) -> str | None:
    """Return which files an index names that are not there."""
    named: set[str] = set()
    for index in folder.glob("*.index.json"):
        try:
            named |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            return f"{index.name} is damaged"
    missing = sorted(name for name in named if not (folder / name).is_file())
    return f"{len(missing)} of {len(named)} files are missing, the first is {missing[0]}" if missing else None


def _find_damage(path: Path) -> str | None:
    """Return what is wrong with a weights file.  https://huggingface.co/docs/safetensors: length, JSON header, tensors."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        begin = stream.read(_LENGTH_BYTES)
        if begin == b"version ":
            return f"{path.name} is a pointer of Git LFS; fetch the file: git lfs pull"
        if path.suffix != ".safetensors":
            return None if size else f"{path.name} is empty"
        length = int.from_bytes(begin, "little")
        if len(begin) < _LENGTH_BYTES or length > min(size, _LONGEST_HEADER_BYTES):
            return f"{path.name} is cut short or no safetensors file"
        try:
            header = json.loads(stream.read(length))
            tensors_bytes = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, AttributeError, TypeError, IndexError):
            return f"{path.name} has a damaged header"
    expected = _LENGTH_BYTES + length + tensors_bytes
    return None if size == expected else f"{path.name} has {size:,} bytes; its header asks for {expected:,}"
