"""The parts of a run that a worker needs: its spec, chunks and validators. Read from the store once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

from common.answers.validators import Validator, build_validators
from common.errors import ConfigError
from common.records import VideoInput
from common.redaction import mask_record
from common.settings import Settings
from common.spec.models import ModelProfile, RunSpec
from common.storage.plan_index import ChunkIndex, read_index
from common.storage.run_record import read_run
from common.storage.store import Store
from workers.media.files import MediaAccess, find_access
from workers.runtime.fingerprint import VIDEO_INPUT, ModelFingerprint, settle_fingerprint


@dataclass
class RunContext:
    """A planned run. ``datasets`` maps a dataset's name to its number in the plan. ``index`` grows when a wave is planned.

    ``video_input`` is the form in which all workers send the videos of this run.
    """

    run_id: str
    spec: RunSpec
    index: ChunkIndex
    datasets: Mapping[str, int]
    validators: tuple[tuple[str, Validator], ...]
    access: MediaAccess
    video_input: VideoInput = VideoInput.FRAMES
    _growing: Lock = field(default_factory=Lock)

    def has_chunk(self, store: Store, number: int) -> bool:
        """Return whether the run has a chunk with this number. Read the index again if the number is not in it yet."""
        if number >= len(self.index):
            index = read_index(store, self.run_id)
            with self._growing:  # another thread may already have read a later wave
                self.index = max(self.index, index, key=len)
        return 0 <= number < len(self.index)


def load_run(store: Store, run_id: str, profile: ModelProfile, settings: Settings) -> RunContext:
    """Read a planned run from the store.

    ``profile`` has all engine options of this worker's engine: the declared options and the options of its preset.
    Raises ``ConfigError`` if the store does not have the run, or if it was planned for another model than ``profile``. Two
    profiles with the same name share a queue, and answers of the wrong model must not be recorded.
    """
    spec, plan = read_run(store, run_id)
    asked, ours = _describe_model(spec.model), _describe_model(profile)
    if differing := [name for name in asked | ours if asked.get(name) != ours.get(name)]:
        name = differing[0]
        raise ConfigError(
            f"run {run_id} was planned with the profile {profile.name}, whose {name} is {_show(asked, name)}; this worker's "
            f"profile of that name has {_show(ours, name)}. Rename one of the two profiles"
        )
    return RunContext(
        run_id=run_id,
        spec=spec,
        index=read_index(store, run_id),
        datasets=plan.dataset_numbers,
        validators=build_validators(spec.validation.validators),
        access=find_access(settings, spec.datasets, spec.prompt.examples),
    )


def choose_video_input(profile: ModelProfile, *, takes_videos: bool) -> VideoInput:
    """Return the form in which videos are sent to the profile's model.

    Raises ``ConfigError`` if the profile requires a video input and the model does not take videos.
    """
    asked = profile.media.video_input
    if asked == VideoInput.NATIVE and not takes_videos:
        raise ConfigError(
            f"profile {profile.name}: media.video_input: found native, but the model has no video input in the engine "
            f"{profile.engine}, or the engine options allow no video (limit_mm_per_prompt of vllm); set video_input to auto or "
            "frames, or allow videos"
        )
    return VideoInput.NATIVE if takes_videos and asked != VideoInput.FRAMES else VideoInput.FRAMES


def _describe_model(profile: ModelProfile) -> dict[str, Any]:
    """Return the profile fields that must be equal in a run and in the worker that serves it, by name."""
    identity = mask_record(profile.identity_options)  # in the form of run.json
    return {
        **{name: getattr(profile, name) for name in ("engine", "weights", "revision", "adapter", "trust_remote_code")},
        **{f"engine_options.{name}": value for name, value in identity.items()},
    }


def _show(described: Mapping[str, Any], name: str) -> str:
    return repr(described[name]) if name in described else "nothing"


class RunCache:
    """The runs that this worker has read from the store. Safe to share between threads."""

    def __init__(
        self,
        store: Store,
        profile: ModelProfile,
        settings: Settings,
        fingerprint: ModelFingerprint,
        takes_videos: Callable[[], bool],
    ) -> None:
        # Threads that load a run together must share one context, even after the cache has dropped it.
        self._loaded: WeakValueDictionary[str, RunContext] = WeakValueDictionary()
        self._load = lru_cache(maxsize=64)(self._read)
        self._store, self._profile, self._settings, self._fingerprint = store, profile, settings, fingerprint
        self._takes_videos = takes_videos

    def load(self, run_id: str) -> RunContext:
        """Return a run, read from the store once. Raises the errors of ``load_run`` and ``settle_fingerprint``."""
        return self._loaded.setdefault(run_id, self._load(run_id))

    def find_index(self, run_id: str) -> ChunkIndex | None:
        """Return a run's chunks if they have been read, else ``None``. The janitor calls this and must not wait for the store."""
        run = self._loaded.get(run_id)
        return run.index if run else None

    def _read(self, run_id: str) -> RunContext:
        run = load_run(self._store, run_id, self._profile, self._settings)
        chosen = choose_video_input(run.spec.model, takes_videos=self._takes_videos())
        ours = dict(self._fingerprint.read())
        if run.spec.model.media.video_input == "auto":  # otherwise the run id covers it
            ours[VIDEO_INPUT] = chosen
        settled = settle_fingerprint(self._store, run_id, ours)
        run.video_input = VideoInput(settled.get(VIDEO_INPUT, chosen))
        return run

    def check_profile(self) -> None:
        """Raise ``ConfigError`` if the profile requires a video input that the loaded model does not have."""
        choose_video_input(self._profile, takes_videos=self._takes_videos())
