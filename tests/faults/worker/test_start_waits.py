"""A worker that starts during a temporary fault reports the fault and waits for its end, under the same launcher."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from common.exit_codes import USER_MUST_ACT
from common.ledger.worker_registry import WorkerRecord
from tests.support.asked_samples import count_asked_again
from tests.support.faults.faulty_s3 import Fault, FaultyS3, answer, faulty_s3, lose_request
from tests.support.faults.redis_faults import (
    RECORDING,
    full_redis,
    hanging_redis,
    read_only_redis,
    redis_without_permission,
    redis_without_primary,
    redis_without_replicas,
    stopped_redis,
    unsaved_redis,
    write_recording_profile,
)
from tests.support.faults.small_disk import SmallDisk, small_disk
from tests.support.fleet import Fleet, make_rows, start_fleet
from tests.support.fleet_processes import find_processes, start_launcher
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["faulty_s3", "small_disk"]  # fixtures

SAMPLES = 80


class Place(NamedTuple):
    """A fleet, and the storage under its store."""

    fleet: Fleet
    disk: SmallDisk | None = None
    s3: FaultyS3 | None = None


Breaking = Callable[[Place], AbstractContextManager[None]]


@contextmanager
def read_only(place: Place) -> Iterator[None]:
    assert place.disk
    place.disk.forbid_writing()
    yield
    place.disk.allow_writing()


@contextmanager
def full(place: Place) -> Iterator[None]:
    assert place.disk
    place.disk.fill()
    yield
    place.disk.make_room()


@contextmanager
def unmounted(place: Place) -> Iterator[None]:
    """Hide the store, as if its file system were not mounted."""
    assert place.disk
    hidden = place.disk.folder / "store"
    away = hidden.rename(hidden.with_name("away"))
    yield
    away.rename(hidden)


@contextmanager
def shut(place: Place) -> Iterator[None]:
    assert place.s3
    place.s3.shut()
    yield
    place.s3.open()


def injected(fault: Fault, asked: str = "") -> Breaking:
    @contextmanager
    def breaking(place: Place) -> Iterator[None]:
        assert place.s3
        place.s3.inject(fault, asked)
        yield
        place.s3.clear_faults()

    return breaking


class StoreFault(NamedTuple):
    place: str
    breaking: Breaking
    words: str


STORE_FAULTS = {
    "folder read-only": StoreFault("disk", read_only, "the store refuses the operation.*Read-only file system"),
    "folder full": StoreFault("disk", full, "the store is full; make room"),
    "folder not mounted": StoreFault("disk", unmounted, "the folder does not exist; nothing is lost.*mount its file system"),
    "s3 unreachable": StoreFault("s3", shut, "the store does not answer"),
    "s3 overloaded": StoreFault("s3", injected(answer(503, "SlowDown")), "the store does not answer"),
    "s3 cuts connections": StoreFault("s3", injected(lose_request), "the store does not answer"),
    "s3 forbids writing": StoreFault(
        "s3", injected(answer(403, "AccessDenied"), "^PUT "), "the store refuses the operation.*AccessDenied"
    ),
    "s3 rejects the clock": StoreFault("s3", injected(answer(403, "RequestTimeTooSkewed")), "RequestTimeTooSkewed"),
    "s3 full": StoreFault("s3", injected(answer(507, "XMinioStorageFull"), "^PUT "), "the store is full; make room"),
}

REDIS_FAULTS: dict[str, Callable[[Fleet], AbstractContextManager[None]]] = {
    "stopped": stopped_redis,
    "hangs": hanging_redis,
    "out of memory": full_redis,
    "replica": read_only_redis,
    "primary lost": redis_without_primary,
    "replicas lost": redis_without_replicas,
    "disk full": unsaved_redis,
    "permission missing": redis_without_permission,
}


@contextmanager
def start_place(name: str, request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if name == "disk":
        disk: SmallDisk = request.getfixturevalue("small_disk")
        with start_fleet(folder, monkeypatch, store_url=f"file://{disk.folder}/store") as fleet:
            yield Place(fleet, disk=disk)
    else:
        s3: FaultyS3 = request.getfixturevalue("faulty_s3")
        with start_fleet(folder, monkeypatch, store_url=request.getfixturevalue("s3_url")) as fleet:
            yield Place(fleet, s3=s3)


def start_run(fleet: Fleet) -> tuple[str, WorkerRecord]:
    """Start a run with a worker that may be restarted once; return the run's id and the worker."""
    write_recording_profile(fleet, delay_s=0.3)
    run_id = enqueue_rows(fleet, RECORDING, make_rows(SAMPLES), chunk=8)
    fleet.start_workers(RECORDING, chunks_in_flight=1, max_restarts=1)
    (worker,) = fleet.wait_for_workers(RECORDING)
    return run_id, worker


def kill_worker(fleet: Fleet, worker: WorkerRecord) -> None:
    """Kill a worker; return once its launcher has started another worker."""
    psutil.Process(worker.pid).kill()
    wait_until(lambda: fleet.read_log().count("worker.started") == 2, "the next worker process")


def assert_run_completes(fleet: Fleet, run_id: str) -> None:
    """Assert that the run ends by itself, with the worker that waited."""
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) <= 8, "only the chunk in flight at the kill may be sent again"
    log = fleet.read_log()
    assert (log.count("worker.started"), log.count("worker.gave_up")) == (2, 0), re.findall(r".*worker.exited.*", log)


@pytest.mark.parametrize("fault", STORE_FAULTS)
def test_restarted_worker_waits_for_the_store(
    fault: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_name, breaking, words = STORE_FAULTS[fault]
    with start_place(place_name, request, tmp_path, monkeypatch) as place:
        fleet = place.fleet
        run_id, worker = start_run(fleet)

        def find_trouble() -> str | None:
            return next((one.trouble for one in fleet.workers(RECORDING) if one.state == "loading" and one.trouble), None)

        with breaking(place):
            kill_worker(fleet, worker)
            trouble = wait_until(find_trouble, "the trouble of the worker that waits")
            assert re.search(words, trouble), trouble
            view = fleet.ledger.view_run(run_id)
            assert view is not None
            assert view.state == "running"
        assert_run_completes(fleet, run_id)


@pytest.mark.parametrize("fault", REDIS_FAULTS)
def test_restarted_worker_waits_for_redis(fleet: Fleet, fault: str) -> None:
    run_id, worker = start_run(fleet)
    with REDIS_FAULTS[fault](fleet):
        kill_worker(fleet, worker)
        wait_until(lambda: "service.awaited" in fleet.read_log(), "the log to name the fault")
    assert_run_completes(fleet, run_id)


def test_worker_is_restarted_until_weights_can_be_downloaded(fleet: Fleet) -> None:
    options = {"asked": str(fleet.folder / "asked"), "repaired": str(fleet.folder / "repaired"), "how": "download"}
    fleet.write_changing_profile(RECORDING, "tests.support.engines.crashing_engine:CrashingEngine", options)
    run_id = enqueue_rows(fleet, RECORDING, make_rows(SAMPLES), chunk=8)
    fleet.start_workers(RECORDING, max_restarts=0)
    wait_until(lambda: fleet.read_log().count("worker.started") >= 3, "several starts")
    trouble = wait_until(lambda: [one.trouble for one in fleet.workers(RECORDING) if one.trouble], "the trouble of the worker")
    assert "cannot be loaded; the worker retries (ConnectionRefusedError" in str(trouble)
    (fleet.folder / "repaired").touch()
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
    assert_run_is_sound(fleet, run_id)
    assert "worker.gave_up" not in fleet.read_log()


def test_waiting_worker_ends_with_its_launcher(fleet: Fleet) -> None:
    """Otherwise the name of the worker would stay in use, and a new launcher could not start."""
    write_recording_profile(fleet)
    folder = Path(fleet.settings.store_url.removeprefix("file://"))
    folder.rmdir()
    launcher = fleet.start_workers(RECORDING)
    wait_until(lambda: "service.awaited" in fleet.read_log(), "the worker to wait")
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not find_processes(fleet), "the end of the worker")


WRONG_CONFIGURATIONS = {
    "unknown scheme": ("ftp://host/folder", None, "unknown scheme 'ftp'"),
    "no such bucket": ("s3://no-such-bucket/root", None, "NoSuchBucket"),
    "unknown key": ("", answer(403, "InvalidAccessKeyId"), "InvalidAccessKeyId"),
    "wrong secret": ("", answer(403, "SignatureDoesNotMatch"), "SignatureDoesNotMatch"),
    "not authenticated": ("", answer(401, "Unauthorized"), "the store refuses"),
    "expired token": ("", answer(400, "ExpiredToken"), "ExpiredToken"),
    "store is a file": ("profiles/recording.yaml", None, "a file; expected a folder"),
}


@pytest.mark.parametrize("mistake", WRONG_CONFIGURATIONS)
def test_worker_gives_up_on_wrong_configuration(fleet: Fleet, faulty_s3: FaultyS3, s3_url: str, mistake: str) -> None:
    """The launcher exits with 2, without a restart."""
    url, fault, words = WRONG_CONFIGURATIONS[mistake]
    if fault:
        faulty_s3.inject(fault)
    if mistake == "store is a file":
        url = str(fleet.folder / url)
    wrong = replace(fleet, settings=fleet.settings.model_copy(update={"store_url": url or s3_url}))
    write_recording_profile(fleet)
    with start_launcher(wrong, "--model", RECORDING, "--gpus", "none", environment=wrong.environment()) as launcher:
        assert launcher.wait(timeout=60) == USER_MUST_ACT
        _, log = launcher.communicate()
    assert words in log
    assert log.count("worker.started") == 1
    (worker,) = fleet.workers(RECORDING)
    assert worker.state == "stopped"
    assert words in (worker.trouble or "")
