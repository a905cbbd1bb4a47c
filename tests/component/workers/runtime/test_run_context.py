"""A worker loads only runs of its own model: a different profile of the same name is refused."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.records import VideoInput
from common.spec.files import read_profile
from common.storage.keys import fingerprint_key
from common.storage.plan_index import ChunkIndex, read_index
from common.storage.store import Store
from tests.support.fleet import Fleet, make_rows
from tests.support.planning import put_part
from tests.support.workers import ScriptedEngine, enqueue_rows, open_worker
from workers.execution.chunk import ChunkResult
from workers.execution.task import run_task
from workers.runtime import run_context as runs
from workers.runtime.run_context import load_run

TAKES_VIDEOS = "tests.support.workers:VideoEngine"


@pytest.mark.parametrize("change", [{"weights": "other"}, {"adapter": "qwen"}, {"revision": "2"}])
def test_run_of_another_model_is_refused(fleet: Fleet, change: dict[str, str]) -> None:
    fleet.write_profile("echo")
    run_id = fleet.enqueue(fleet.write_spec("echo", [fleet.write_dataset("rows", make_rows(3))])).run_id
    assert load_run(fleet.store, run_id, read_profile("echo"), fleet.settings).datasets == {"rows": 0}
    other = read_profile("echo").model_copy(update=change)
    with pytest.raises(
        ConfigError, match=f"the profile echo, whose {next(iter(change))} is .*; this worker's profile of that name has"
    ):
        load_run(fleet.store, run_id, other, fleet.settings)


@pytest.mark.parametrize("options", [{}, {"default": "no"}, {"default": "ok", "dtype": "bfloat16"}])
def test_run_of_other_identity_options_is_refused(fleet: Fleet, options: dict[str, str]) -> None:
    fleet.write_profile("echo", engine_options={"default": "ok"})
    run_id = fleet.enqueue(fleet.write_spec("echo", [fleet.write_dataset("rows", make_rows(3))])).run_id
    other = read_profile("echo").model_copy(update={"engine_options": options})
    with pytest.raises(
        ConfigError, match=r"the profile echo, whose engine_options\.(default|dtype) is .*; this worker's profile of that name has"
    ):
        load_run(fleet.store, run_id, other, fleet.settings)


def test_capacity_options_may_differ_between_nodes(fleet: Fleet) -> None:
    fleet.write_profile("echo")
    run_id = fleet.enqueue(fleet.write_spec("echo", [fleet.write_dataset("rows", make_rows(3))])).run_id
    load_run(fleet.store, run_id, read_profile("echo").model_copy(update={"engine_options": {"delay_s": 1}}), fleet.settings)


def test_late_index_read_does_not_remove_chunks(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.write_profile("echo")
    run_id = fleet.enqueue(fleet.write_spec("echo", [fleet.write_dataset("rows", make_rows(3))])).run_id
    put_part(fleet.store, read_index(fleet.store, run_id)[0], statuses=["failed"])
    run = load_run(fleet.store, run_id, read_profile("echo"), fleet.settings)
    has_read, has_grown = threading.Event(), threading.Event()

    def read_early(store: Store, run_id: str) -> ChunkIndex:
        index = read_index(store, run_id)
        has_read.set()
        assert has_grown.wait(20)
        return index

    with ThreadPoolExecutor(1) as threads:
        monkeypatch.setattr(runs, "read_index", read_early)
        early = threads.submit(run.has_chunk, fleet.store, 1)
        assert has_read.wait(20)
        monkeypatch.setattr(runs, "read_index", read_index)
        fleet.run_producer("resume", run_id, "--rebuild", "--retry", "failed")
        assert run.has_chunk(fleet.store, 1)
        has_grown.set()
        early.result(20)
    assert run.index[1].number == 1


def load_video_input(fleet: Fleet, run_id: str, *, takes_videos: bool) -> VideoInput:
    """Return the video input of a run on a new worker whose engine takes videos or does not."""
    with open_worker(fleet, "tried") as worker:
        worker.host.engine = engine = ScriptedEngine("ok")
        engine.takes_videos = takes_videos
        return worker.runs.load(run_id).video_input


@pytest.mark.parametrize("workers", [(True, True), (False, False), (False, True)])
def test_first_worker_decides_the_video_input(fleet: Fleet, workers: tuple[bool, bool]) -> None:
    fleet.write_profile("tried")
    run_id = enqueue_rows(fleet, "tried", make_rows(1))
    expected = VideoInput.NATIVE if workers[0] else VideoInput.FRAMES
    assert [load_video_input(fleet, run_id, takes_videos=takes_videos) for takes_videos in workers] == [expected] * 2
    assert json.loads(fleet.store.get(fingerprint_key(run_id)))["video_input"] == expected


def test_worker_without_video_input_refuses_a_native_run(fleet: Fleet) -> None:
    fleet.write_profile("tried")
    run_id = enqueue_rows(fleet, "tried", make_rows(1))
    load_video_input(fleet, run_id, takes_videos=True)
    with pytest.raises(ConfigError, match=f"run {run_id} sends videos through the model's own video input"):
        load_video_input(fleet, run_id, takes_videos=False)


def test_run_of_an_earlier_version_keeps_frames(fleet: Fleet) -> None:
    """The fingerprints of earlier versions do not state the video input."""
    fleet.write_profile("tried")
    run_id = enqueue_rows(fleet, "tried", make_rows(1))
    fleet.store.put_new(fingerprint_key(run_id), b"{}")
    assert load_video_input(fleet, run_id, takes_videos=True) is VideoInput.FRAMES


@pytest.mark.parametrize("asked", ["native", "frames"])
def test_fingerprint_is_free_of_a_set_video_input(fleet: Fleet, asked: str) -> None:
    fleet.write_profile("tried", media={"video_input": asked}, engine=TAKES_VIDEOS)
    run_id = enqueue_rows(fleet, "tried", make_rows(1))
    assert load_video_input(fleet, run_id, takes_videos=True) == asked
    assert json.loads(fleet.store.get(fingerprint_key(run_id))) == {}


def test_worker_requires_the_video_input_of_its_profile(fleet: Fleet) -> None:
    fleet.write_profile("tried", media={"video_input": "native"})
    with (
        pytest.raises(ConfigError, match=r"profile tried: media\.video_input: found native, but the model has no video input"),
        open_worker(fleet, "tried"),
    ):
        pytest.fail("the worker started")


def test_run_that_requires_a_video_input_is_paused(fleet: Fleet) -> None:
    """The profile of the worker is not the profile of the run."""
    fleet.write_profile("tried", media={"video_input": "native"})
    run_id = enqueue_rows(fleet, "tried", make_rows(1))
    fleet.write_profile("tried")
    with open_worker(fleet, "tried") as worker:
        assert run_task(worker, run_id, 0) == ChunkResult.FAILED
    view = fleet.ledger.view_run(run_id)
    assert view is not None
    assert view.state == "paused"
    assert "media.video_input: found native, but the model has no video input in the engine echo" in view.reason


def test_run_with_other_weights_is_paused_with_reason(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New weights are saved in the same folder during a run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (weights := tmp_path / "model").mkdir()
    (weights / "model.safetensors").write_bytes(b"old")
    fleet.write_profile("mine", engine=f"{ScriptedEngine.__module__}:NamedEngine", weights=str(weights))
    run_id = enqueue_rows(fleet, "mine", make_rows(8), chunk=4)
    with open_worker(fleet, "mine") as worker:
        assert run_task(worker, run_id, 0) == ChunkResult.DONE
    (weights / "model.safetensors").write_bytes(b"new")
    with open_worker(fleet, "mine", name="second@test") as worker:
        assert run_task(worker, run_id, 1) == ChunkResult.FAILED
    status = fleet.status(run_id)
    assert status.state == "paused"
    assert status.samples.ok == 4
    assert "second@test: run" in str(status.reason)
    assert "was started with another model: model.safetensors is" in str(status.reason)

    (weights / "model.safetensors").write_bytes(b"old")
    fleet.run_producer("resume", run_id)
    with open_worker(fleet, "mine", name="third@test") as worker:
        assert run_task(worker, run_id, 1) == ChunkResult.DONE
