"""The fingerprint of a run identifies its model by content. The first worker that serves the run fixes it."""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from threading import Lock, Thread

import structlog

from common.digests import digest_file
from common.errors import ConfigError, FleetError, IntegrityError, TransientError
from common.records import VideoInput
from common.spec.identity import find_engine_name
from common.spec.models import ModelProfile
from common.storage.keys import fingerprint_key
from common.storage.store import MissingObject, Store
from workers.engines.hub_cache import find_snapshot
from workers.runtime.file_digests import digest_files

log = structlog.get_logger()

VIDEO_INPUT = "video_input"  # the entry of a fingerprint with the form in which the run's videos are sent

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
# Configuration, tokenizer, processor, chat templates, and the code of models that include code.
_OTHERS = ("*.json", "*.jinja", "*/*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py")
# Engine options that name further files of a model, as a folder or a hub id.
_FURTHER = {"vllm": ("tokenizer", "hf_config_path"), "mmada": ("vq_weights",)}


class ModelFingerprint:
    """The fingerprint of this worker's model, computed once. Safe to share between threads."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        self._profile = profile
        self._weights = weights
        self._lock = Lock()
        self._found: dict[str, str] | None = None

    def begin(self) -> None:
        """Hash a local folder in a separate thread while the engine loads. Skip a model of the hub: it may not be downloaded."""
        if _is_folder(self._weights):
            Thread(target=self._read_early, name="fingerprint", daemon=True).start()

    def read(self) -> Mapping[str, str]:
        """Return the digest of each file of the model, or the fields that an endpoint reports, by name.

        Call this after the engine has loaded. Raises ``TransientError`` if a file or the endpoint cannot be read now.
        """
        with self._lock:
            if self._found is None:
                self._found = describe_model(self._profile, self._weights)
            return self._found

    def _read_early(self) -> None:
        try:
            self.read()
        except FleetError as error:  # the load of the first run retries this
            log.warning("fingerprint.failed", error=str(error))


def describe_model(profile: ModelProfile, weights: str) -> dict[str, str]:
    """Return the digests or fields that identify the content of a model, by name. Raises ``TransientError``."""
    engine, options = find_engine_name(profile.engine), profile.engine_options
    if engine == "openai":
        from workers.engines.openai.report import read_report

        return read_report(profile, weights)
    try:
        if engine == "echo":
            table = options.get("table")
            return {f"table {table}": digest_file(Path(table))} if isinstance(table, str) else {}
        found = _digest_model(profile, weights, revision=profile.revision)
        for name in _FURTHER.get(engine, ()):
            if source := options.get(name):
                further = _digest_model(profile, str(source), revision=None)
                found |= {f"{name}/{file}": digest for file, digest in further.items()}
    except OSError as error:
        raise TransientError(f"profile {profile.name}: weights {weights}: cannot be read: {error}") from error
    return found


def _digest_model(profile: ModelProfile, source: str, *, revision: str | None) -> dict[str, str]:
    """Return the digests of a model's files by name, or an empty mapping if ``source`` is not a folder or in the hub's cache."""
    options = profile.engine_options
    if _is_folder(source):
        folder: Path | None = Path(source)
    else:
        folder = find_snapshot(source, revision, cache=options.get("download_dir")) if source else None
    if folder is None:
        return {}
    files = list_model_files(folder, all_weights="load_format" in options)
    return {str(path.relative_to(folder)): digest for path, digest in digest_files(files).items()}


def list_model_files(folder: Path, *, all_weights: bool = False) -> list[Path]:
    """Return the files of a saved model that can change an answer: weights, configuration, tokenizer, templates and code.

    If the weights have several formats, engines load the first format. ``all_weights`` lists all formats.
    """
    formats = [sorted(folder.glob(pattern)) for pattern in _WEIGHTS]
    weights = list(chain(*formats)) if all_weights else next(filter(None, formats), [])
    return [*weights, *sorted({path for pattern in _OTHERS for path in folder.glob(pattern) if path.is_file()})]


def settle_fingerprint(store: Store, run_id: str, ours: Mapping[str, str]) -> Mapping[str, str]:
    """Store the run's fingerprint if the store does not have it, else compare it with the fingerprint of this worker's model.

    Return the run's fingerprint. If ``ours`` has a ``VIDEO_INPUT``, it states what this worker's model can do: a run whose videos
    are sent as frames accepts every worker. Earlier versions always sent frames, and their fingerprints do not state it.
    Raises ``ConfigError`` that names the file if they differ, and ``IntegrityError`` if the stored fingerprint is damaged.
    """
    key = fingerprint_key(run_id)
    try:
        content = store.get(key)
    except MissingObject:
        if store.put_new(key, json.dumps(ours, indent=2, sort_keys=True).encode()):
            return ours
        content = store.get(key)
    theirs = _parse(content, key)
    if VIDEO_INPUT in ours and theirs.setdefault(VIDEO_INPUT, VideoInput.FRAMES) == VideoInput.FRAMES:
        ours = {**ours, VIDEO_INPUT: VideoInput.FRAMES}
    differing = sorted(name for name in theirs | dict(ours) if theirs.get(name) != ours.get(name))
    if differing == [VIDEO_INPUT]:
        raise ConfigError(
            f"run {run_id} sends videos through the model's own video input, which the model does not have on this worker; use the "
            "version of the engine that the other workers have and restart this worker, then resume the run"
        )
    if differing:
        name = differing[0]
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise ConfigError(
            f"run {run_id} was started with another model: {name}{more} is {theirs.get(name, 'absent')} in the run and "
            f"{ours.get(name, 'absent')} on this worker; serve the run's weights and restart this worker, then resume the run; or "
            "give the changed model a profile with another name"
        )
    return theirs


def _parse(content: bytes, key: str) -> dict[str, str]:
    try:
        return {str(name): str(digest) for name, digest in json.loads(content).items()}
    except (ValueError, AttributeError) as error:
        raise IntegrityError(
            f"{key} is not a valid fingerprint ({error}); if all workers have the weights that the run was started with, delete "
            "it, and the next worker writes it again"
        ) from error


def _is_folder(weights: str) -> bool:
    return weights.startswith(("/", "."))
