"""A worker inside the test's process, for tests of one step of a chunk's execution."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

from common.broker.app import make_app
from common.ledger.connection import connect_redis
from common.ledger.ledger import Ledger
from common.ledger.worker_registry import WorkerRecord
from common.records import Sample
from common.spec.files import read_profile
from common.spec.models import ModelProfile
from common.storage.plan_index import read_chunk
from tests.support.fleet import Fleet
from workers.app import wire_worker
from workers.engines.base import Generation, Request
from workers.engines.registry import load_engine
from workers.runtime.worker import Worker


@contextmanager
def open_worker(fleet: Fleet, model: str, *, name: str = "tried@test", **settings: float) -> Iterator[Worker]:
    """Yield a started worker. Keyword arguments are ``FLEET_*`` settings, in lower case."""
    chosen = fleet.settings.model_copy(update=settings)
    profile = read_profile(model)
    weights = profile.weights if profile.weights and profile.weights.startswith("/") else ""  # a hub name is not a folder
    with connect_redis(chosen, patience_s=0) as client:
        worker = wire_worker(
            WorkerRecord(worker=name, model=profile.name, device="cpu", pid=os.getpid(), state="loading"),
            profile,
            load_engine(profile, weights),
            make_app(chosen),
            ledger=Ledger(client, chosen),
            store=fleet.store,
            settings=chosen,
            weights=weights,
        )
        worker.start()
        try:
            yield worker
        finally:
            worker.leases.drain(at_once=True)
            worker.stop()


def enqueue_rows(
    fleet: Fleet, model: str, rows: Sequence[Mapping[str, Any]], *, chunk: int = 16, digest_media: str = "auto", **spec: Any
) -> str:
    """Enqueue a run of one dataset in chunks of ``chunk`` samples; return its id."""
    source = {"path": str(fleet.write_dataset("rows", rows)), "digest_media": digest_media}
    path = fleet.write_spec(model, [source], chunks={"max_samples": chunk}, **spec)
    return fleet.enqueue(path).run_id


def read_samples(worker: Worker, run_id: str, number: int = 0) -> list[Sample]:
    return read_chunk(worker.store, worker.runs.load(run_id).index[number])


class Exited(BaseException):
    """An exception that tests raise instead of ending the process."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the exit codes with which workers would have ended this process."""
    codes: list[int] = []

    def note(code: int) -> NoReturn:
        codes.append(code)
        raise Exited

    monkeypatch.setattr("workers.runtime.worker.os._exit", note)
    return codes


class ScriptedEngine:
    """An engine that answers with a fixed text or the result of a function, and keeps its requests in ``asked``."""

    def __init__(self, answer: str | Callable[[Request], str]) -> None:
        self.asked: list[Request] = []
        self.takes_videos = False
        self._answer = answer

    async def start(self) -> None:
        """Do nothing, because the engine does not load a model."""

    async def generate(self, request: Request) -> Generation:
        self.asked.append(request)
        words = (self._answer if isinstance(self._answer, str) else self._answer(request)).split()
        kept = words[: request.settings.max_tokens]
        return Generation(" ".join(kept), "length" if len(kept) < len(words) else "stop", 1, len(kept))

    async def stop(self) -> None:
        """Do nothing, because the engine does not hold resources."""


class NamedEngine(ScriptedEngine):
    """A scripted engine that a profile can name."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        del profile, weights
        super().__init__("ok")


class VideoEngine(NamedEngine):
    """A scripted engine with a video input, which a profile can name."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        super().__init__(profile, weights)
        self.takes_videos = True
