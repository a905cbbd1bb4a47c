"""A run as a worker needs it: what was asked, where its chunks lie, which answers are accepted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock

from common.answers.validators import Validator, build_validators
from common.errors import ConfigError
from common.settings import Settings
from common.spec.models import ModelProfile, RunSpec
from common.storage.plan_index import ChunkIndex, read_index
from common.storage.run_record import read_run
from common.storage.store import Store
from workers.media.files import MediaAccess, find_access


@dataclass
class RunContext:
    """``datasets`` maps a dataset's name to its number in the plan; ``index`` grows when samples are to be run again."""

    run_id: str
    spec: RunSpec
    index: ChunkIndex
    datasets: Mapping[str, int]
    validators: tuple[tuple[str, Validator], ...]
    access: MediaAccess
    _growing: Lock = field(default_factory=Lock)

    def has_chunk(self, store: Store, number: int) -> bool:
        """Return whether the run has a chunk of this number, in a wave planned since, perhaps."""
        if number >= len(self.index):
            index = read_index(store, self.run_id)
            with self._growing:  # another thread may have read a later wave meanwhile
                self.index = max(self.index, index, key=len)
        return 0 <= number < len(self.index)


def load_run(store: Store, run_id: str, profile: ModelProfile, settings: Settings) -> RunContext:
    """Read a planned run from the store.

    Raises ``ConfigError`` when it was never planned there, or was planned for another model than this worker's
    ``profile``: two profiles of one name share a queue, and answers of the wrong model must not be recorded.
    """
    spec, plan = read_run(store, run_id)
    for name in ("engine", "weights", "revision", "adapter"):
        asked, ours = getattr(spec.model, name), getattr(profile, name)
        if asked != ours:
            raise ConfigError(
                f"run {run_id} asks for {name} {asked!r} of {profile.name}, this worker's profile has {ours!r}; "
                "give one of the two profiles another name"
            )
    return RunContext(
        run_id=run_id,
        spec=spec,
        index=read_index(store, run_id),
        datasets=plan.dataset_numbers,
        validators=build_validators(spec.validation.validators),
        access=find_access(settings, spec.datasets),
    )
