"""Check that the weights of a model are present and complete.

The checks read only names, sizes and the headers of safetensors files, not the weights.
"""

import json
import os
from pathlib import Path

from workers.doctor.finding import GIB, Finding
from workers.engines.hub_cache import find_snapshot

_LENGTH_BYTES = 8
_LONGEST_HEADER_BYTES = 100_000_000  # the limit of the format
_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE_VALUES = ("1", "true", "yes", "on")


def check_weights(weights: str, revision: str | None) -> Finding:
    """Check that a model is complete. ``weights`` is a folder, or a hub id that is looked up in the local cache."""
    if weights.startswith(("/", ".")):
        return check_folder(Path(weights))
    try:
        folder = find_snapshot(weights, revision)
    except OSError as error:
        found = f"the copy of {weights} in the local cache cannot be read: {error.strerror or error}"
        return Finding("weights", "problem", found, f"check the permissions of {find_hub_cache()}")
    if folder is not None:
        return check_folder(folder, hub_id=weights, revision=revision)
    download = _name_download(weights, revision)
    if any(os.environ.get(name, "").lower() in _TRUE_VALUES for name in _OFFLINE):
        advice = f"download it on a machine with a network: {download}, then copy the cache; or unset HF_HUB_OFFLINE"
        return Finding("weights", "problem", f"{weights} is not in the local cache, and HF_HUB_OFFLINE forbids a download", advice)
    return Finding("weights", "warning", f"{weights} is not in the local cache", f"download it first: {download}")


def check_folder(folder: Path, *, hub_id: str | None = None, revision: str | None = None) -> Finding:
    """Check that a saved model is complete: its configuration, and every file that its index names, at full length.

    ``hub_id`` and ``revision`` identify a model from the hub, for the download command in the advice.
    """
    place = f"{hub_id} in the cache" if hub_id else str(folder)
    advice = f"download it again: {_name_download(hub_id, revision)}" if hub_id else "copy the model again, with all its files"
    try:
        if not folder.is_dir():
            return Finding("weights", "problem", f"{place}: the folder does not exist", advice)
        if not (folder / "config.json").is_file():
            return Finding("weights", "problem", f"{place}: config.json is missing", advice)
        files = sorted({path for pattern in _WEIGHT_FILES for path in folder.glob(pattern)})
        fault = _find_missing(folder) or next(filter(None, map(_find_damage, files)), None)
        size = sum(path.stat().st_size for path in files)
    except OSError as error:
        advice = "check the permissions of the folder and of its parents"
        return Finding("weights", "problem", f"{place}: cannot be read: {error.strerror}", advice)
    if fault or not files:
        return Finding("weights", "problem", f"{place}: {fault or 'the folder does not contain weights'}", advice)
    return Finding("weights", "ok", f"{place}: {len(files)} file{'' if len(files) == 1 else 's'}, {size / GIB:.2f} GiB")


def find_hub_cache() -> Path | None:
    """Return the download cache of ``huggingface_hub``, or ``None`` if that package is not installed."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return Path(constants.HF_HUB_CACHE)


def _name_download(hub_id: str, revision: str | None) -> str:
    return f"hf download {hub_id}" + (f" --revision {revision}" if revision else "")


def _find_missing(folder: Path) -> str | None:
    """Describe the missing files that an index names, or return ``None`` if all exist."""
    named: set[str] = set()
    for index in folder.glob("*.index.json"):
        try:
            named |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            return f"{index.name} is damaged"
    missing = sorted(name for name in named if not (folder / name).is_file())
    return f"{len(missing)} of {len(named)} files are missing, the first is {missing[0]}" if missing else None


def _find_damage(path: Path) -> str | None:
    """Describe the damage of a weights file, or return ``None`` if it is complete.

    A safetensors file consists of the header's length, a JSON header and the tensors: https://huggingface.co/docs/safetensors
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        begin = stream.read(_LENGTH_BYTES)
        if begin == b"version ":
            return f"{path.name} is a Git LFS pointer; fetch the file: git lfs pull"
        if path.suffix != ".safetensors":
            return None if size else f"{path.name} is empty"
        length = int.from_bytes(begin, "little")
        if len(begin) < _LENGTH_BYTES or length > min(size, _LONGEST_HEADER_BYTES):
            return f"{path.name} is cut short or not a safetensors file"
        try:
            header = json.loads(stream.read(length))
            tensors_bytes = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, AttributeError, TypeError, IndexError):
            return f"{path.name} has a damaged header"
    expected = _LENGTH_BYTES + length + tensors_bytes
    return None if size == expected else f"{path.name} has {size:,} bytes; its header requires {expected:,}"
