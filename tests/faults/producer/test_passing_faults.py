"""Commands end with exit code 3 during a temporary fault, and succeed after it."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.faults.redis_faults import (
    read_only_redis,
    redis_without_permission,
    redis_without_primary,
    redis_without_replicas,
    stopped_redis,
    unsaved_redis,
)
from tests.support.fleet import Fleet, make_rows
from tests.support.planning import run_chunks
from tests.support.workers import enqueue_rows

MODEL = "quick"
SAMPLES = 40


@contextmanager
def unmounted_store(fleet: Fleet) -> Iterator[None]:
    folder = Path(fleet.settings.store_url.removeprefix("file://"))
    away = folder.rename(folder.with_name("away"))
    yield
    away.rename(folder)


class FailingCommands(NamedTuple):
    """A fault, the commands that fail while it lasts, and a part of their error message."""

    fault: Callable[[Fleet], AbstractContextManager[None]]
    failing: tuple[str, ...]
    words: str


FAULTS = {
    "store not mounted": FailingCommands(unmounted_store, ("resume", "collect", "status"), "mount its file system"),
    "redis stopped": FailingCommands(stopped_redis, ("enqueue", "resume", "status"), "does not answer"),
    "redis is a replica": FailingCommands(read_only_redis, ("enqueue", "resume"), "does not accept writes"),
    "redis without primary": FailingCommands(redis_without_primary, ("enqueue", "resume", "status"), ""),
    "redis without replicas": FailingCommands(redis_without_replicas, ("enqueue", "resume"), "NOREPLICAS"),
    "redis disk full": FailingCommands(unsaved_redis, ("enqueue", "resume"), "MISCONF"),
    "redis user without permission": FailingCommands(redis_without_permission, ("enqueue", "resume"), "does not permit"),
}


def list_commands(fleet: Fleet, run_id: str) -> Mapping[str, tuple[str, ...]]:
    return {
        "enqueue": ("enqueue", str(fleet.folder / f"{MODEL}.spec.yaml")),
        "resume": ("resume", run_id),
        "collect": ("collect", run_id, "--out", str(fleet.folder / "out")),
        "status": ("status", run_id),
    }


@pytest.mark.parametrize("name", FAULTS)
def test_commands_exit_with_3_until_the_fault_ends(fleet: Fleet, name: str) -> None:
    case = FAULTS[name]
    fleet.write_profile(MODEL)
    run_id = enqueue_rows(fleet, MODEL, make_rows(SAMPLES), chunk=8)
    run_chunks(fleet, MODEL, run_id)
    commands = list_commands(fleet, run_id)
    with case.fault(fleet), ThreadPoolExecutor() as pool:
        for output in pool.map(lambda one: fleet.run_producer(*commands[one], code=3), case.failing):
            assert case.words in output
            assert "Traceback" not in output
    with ThreadPoolExecutor() as pool:
        [*pool.map(lambda one: fleet.run_producer(*commands[one]), case.failing)]
    assert fleet.status(run_id).samples.ok == SAMPLES
