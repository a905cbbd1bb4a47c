"""A run as a worker needs it: what was asked, where its chunks lie, which answers are accepted."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.chunks import ChunkIndex, read_index, read_run
from common.spec import RunSpec
from common.store import Store
from workers.validators import Validator, build_validators


@dataclass(frozen=True)
class LoadedRun:
    """``datasets`` maps a dataset's name to its number in the plan."""

    run_id: str
    spec: RunSpec
    index: ChunkIndex
    datasets: Mapping[str, int]
    validators: tuple[tuple[str, Validator], ...]


def load_run(store: Store, run_id: str) -> LoadedRun:
    """Read a planned run from the store.  Raises ``MissingObject`` when it was never planned there."""
    spec, plan = read_run(store, run_id)
    datasets = {counts.name: number for number, counts in enumerate(plan.datasets)}
    return LoadedRun(run_id, spec, read_index(store, run_id), datasets, build_validators(spec.validation.validators))
