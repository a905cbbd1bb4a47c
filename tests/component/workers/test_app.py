"""A worker process reads its settings from its launcher's variables."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common.settings import get_settings
from common.spec.models import SamplingParams
from tests.support.fleet import Fleet
from workers.app import make_worker
from workers.engines.base import Message, Request
from workers.runtime.worker import Worker


@pytest.fixture
def variables(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Make this process a worker of the fleet; yield the monkeypatch that sets its launcher's variables."""
    for name, value in fleet.environment().items():
        if name.startswith("FLEET_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLEET_WORKER_PROFILE", "some")
    get_settings.cache_clear()
    yield monkeypatch
    get_settings.cache_clear()


@contextmanager
def start_worker(name: str) -> Iterator[Worker]:
    worker = make_worker(name)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def ask(worker: Worker, question: str) -> str:
    request = Request("1", (Message("user", (question,)),), (), SamplingParams())
    return worker.host.submit(worker.host.generate(request)).result().text


@pytest.mark.parametrize(("options", "answer"), [({}, "chosen by the launcher"), ({"default": "the profile's"}, "the profile's")])
def test_launcher_options_are_defaults_under_the_profile(
    fleet: Fleet, variables: pytest.MonkeyPatch, options: dict[str, str], answer: str
) -> None:
    fleet.write_profile("some", engine_options=options)
    variables.setenv("FLEET_WORKER_PRESET", '{"default": "chosen by the launcher"}')
    variables.setenv("FLEET_WORKER_GPU", "2 × NVIDIA L4")
    with start_worker("gpu0+1@here") as worker:
        assert ask(worker, "what?") == answer
        assert [(worker.worker, worker.gpu) for worker in fleet.workers("some")] == [("gpu0+1@here", "2 × NVIDIA L4")]


def test_worker_without_launcher_follows_its_profile(fleet: Fleet, variables: pytest.MonkeyPatch) -> None:
    fleet.write_profile("some", engine_options={"default": "the profile's"})
    for name in [name for name in os.environ if name.startswith("FLEET_WORKER_") and name != "FLEET_WORKER_PROFILE"]:
        variables.delenv(name)
    with start_worker("cpu@here") as worker:
        assert ask(worker, "what?") == "the profile's"
        assert [worker.gpu for worker in fleet.workers("some")] == [None]
