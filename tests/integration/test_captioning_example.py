"""The captioning example as a user runs it: with its own Redis and worker, killed at several points, and started again."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from common.answers.extract import split_words
from common.settings import Settings
from examples.captioning.make_data import write_project
from producer.demo.redis_server import start_redis
from tests.support.fleet import ROOT, Fleet
from tests.support.fleet_processes import clean_fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until

__all__ = ["clean_fleet"]  # a fixture

SHAPES = 24
CHUNK = 4
MODEL = ROOT / "examples" / "tiny" / "model"

# Runs the example, and kills it before it writes its fifth caption.
KILLED_EXPORT = """
import os, runpy, signal, sys
from producer.results.export import captions

write, left = captions._write_file, 4

def write_or_die(path, text):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return write(path, text)

captions._write_file = write_or_die
runpy.run_module("examples.captioning", run_name="__main__")
"""


class Example:
    """The example's folders, and its model: the tiny model or the echo engine, under the name of the tiny model."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.project, self.folder = folder / "project", folder / "work"
        self.captions = self.folder / "shape_descriptions"
        self.truth = write_project(self.project)
        self._profiles = folder / "profiles"
        self._profiles.mkdir()

    def write_profile(self, **fields: Any) -> None:
        (self._profiles / "tiny.yaml").write_text(yaml.safe_dump({"name": "tiny", **fields}))

    def start(self, code: str = "") -> "subprocess.Popen[str]":
        """Start the example, or ``code``, which starts it."""
        program = ["-c", code] if code else ["-m", "examples.captioning"]
        return subprocess.Popen(
            [sys.executable, *program, "--project", str(self.project), "--dir", str(self.folder)],
            env={**os.environ, "FLEET_PROFILES_DIR": str(self._profiles), "FLEET_CHUNKS_IN_FLIGHT": "1", "PYTHONPATH": str(ROOT)},
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, code: str = "", *, expected: int = 0) -> str:
        """Run the example to its end, and return its output."""
        shown, complained = (started := self.start(code)).communicate(timeout=150)
        assert started.returncode == expected, f"{shown}\n{complained}"
        assert "Traceback" not in complained
        return shown

    def read_parts(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.glob("store/runs/*/parts/*/*.parquet")
        }

    def read_captions(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.captions.glob("*")}

    def list_runs(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("store/runs/*"))

    def assert_is_sound(self) -> None:
        """Assert that every run is complete, with the ledger that Redis restores from its append-only file."""
        with start_redis(self.folder / "redis") as server:
            fleet = Fleet(self.folder, server, Settings(redis_url=server.url, store_url=f"file://{self.folder}/store"))
            for run_id in self.list_runs():
                assert_run_is_sound(fleet, run_id)


@pytest.fixture
def example(tmp_path: Path) -> Example:
    example = Example(tmp_path / "example")
    example.write_profile(engine="echo", engine_options={"default": "A red circle."})
    return example


def kill_all(started: "subprocess.Popen[str]") -> None:
    """Kill a process and all its child processes, parents first, as a loss of the machine would."""
    processes = [found := psutil.Process(started.pid), *found.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    started.communicate(timeout=30)
    psutil.wait_procs(processes[1:], timeout=30)
    assert started.returncode == -signal.SIGKILL


@pytest.mark.timeout(600)
def test_killed_example_continues_and_captions_every_image(example: Example, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    options = {"dtype": "float32", "max_batch_size": CHUNK, "gate": str(gate), "answers": 2 * CHUNK}
    example.write_profile(engine="tests.support.engines.gated_engine:GatedEngine", weights=str(MODEL), engine_options=options)
    killed = example.start()
    try:
        wait_until(lambda: len(example.read_parts()) == 2, "two parts", deadline_s=150)
    finally:
        kill_all(killed)
    before = example.read_parts()
    assert example.read_captions() == {}

    gate.touch()
    assert f"{SHAPES} written, 0 replaced, 0 unchanged, 0 left out" in example.run()
    parts = example.read_parts()
    assert len(parts) == SHAPES / CHUNK
    assert {name: parts[name] for name in before} == before, "finished parts must not be written again"
    captions = example.read_captions()
    assert sorted(captions) == sorted(f"{image}.txt" for image in example.truth)
    assert all(0 < len(split_words(caption)) <= 30 for caption in captions.values())
    right = sum(captions[f"{image}.txt"] == caption for image, caption in example.truth.items())
    assert right >= 0.9 * SHAPES
    assert not (example.folder / "shapes.jsonl").exists()
    example.assert_is_sound()

    log = (example.folder / "redis" / "redis.log").read_bytes()
    assert f"0 shapes without a caption, {SHAPES} with a caption" in example.run()
    assert (example.read_parts(), example.read_captions()) == (parts, captions)
    assert (example.folder / "redis" / "redis.log").read_bytes() == log, "Redis must not start if every image has a caption"


def test_killed_export_continues_without_new_requests(example: Example) -> None:
    example.run(KILLED_EXPORT, expected=-signal.SIGKILL)
    parts, [run_id] = example.read_parts(), example.list_runs()
    assert len(example.read_captions()) == 4
    assert f"{SHAPES - 4} written, 0 replaced, 4 unchanged" in example.run()
    assert example.read_captions() == {f"{image}.txt": "A red circle." for image in example.truth}
    assert (example.read_parts(), example.list_runs()) == (parts, [run_id]), "answered images must not be sent again"


def test_only_new_images_are_captioned(example: Example) -> None:
    """An image that failed is sent again when its file has changed. Other images keep their captions."""
    lost, *_ = sorted(example.truth)
    image = (example.project / "raw" / lost).read_bytes()
    (example.project / "raw" / lost).unlink()
    output = example.run(expected=1)
    assert f"left out: shapes {lost}: failed (media_missing)" in output
    assert sorted(example.read_captions()) == sorted(f"{name}.txt" for name in example.truth if name != lost)

    (example.project / "raw" / lost).write_bytes(image)
    (example.captions / f"{max(example.truth)}.txt").write_text("By hand.")
    output = example.run()
    assert f"1 shapes without a caption, {SHAPES - 1} with a caption" in output
    assert "1 written, 0 replaced, 0 unchanged, 0 left out" in output
    captions = example.read_captions()
    assert (len(captions), captions[f"{max(example.truth)}.txt"]) == (SHAPES, "By hand.")
    example.assert_is_sound()


def test_identical_images_all_get_captions(example: Example) -> None:
    """Rows with equal image and context are one sample. If the plan omits such a row, it is in the rows of the next start."""
    first, *others = sorted(image for image in example.truth if image.startswith("team-"))
    for image in others:
        (example.project / "raw" / image).write_bytes((example.project / "raw" / first).read_bytes())
    for _ in (first, *others):
        started = example.start()
        started.communicate(timeout=150)
        if started.returncode == 0:
            break
    assert started.returncode == 0
    assert example.read_captions() == {f"{image}.txt": "A red circle." for image in example.truth}


def test_failed_images_are_sent_again(example: Example) -> None:
    """The rows are the same as in the run before, so the same run gets another wave."""
    lost, *_ = sorted(example.truth)
    (example.project / "raw" / lost).write_bytes(b"not an image")
    for _ in range(3):
        assert "failed (media_corrupt)" in example.run(expected=1)
    assert len(example.list_runs()) == 2
    assert len([name for name in example.read_parts() if "/parts/w2/" in name]) == 1
    assert len(example.read_captions()) == SHAPES - 1


def test_faults_of_documents_are_printed(example: Example) -> None:
    (example.project / "jsons" / "broken.json").write_text("{")
    for _ in range(2):
        assert "jsons/broken.json: not JSON" in example.run(expected=1)
    assert len(example.read_captions()) == SHAPES


def test_example_runs_on_a_fleet_as_documented(example: Example, clean_fleet: Fleet) -> None:
    """The commands of the example's README: prepare, enqueue, export; with rows in the project's folder."""
    fleet, project = clean_fleet, example.project
    fleet.write_profile("tiny", engine_options={"default": "A red circle."})
    spec = yaml.safe_load((ROOT / "examples" / "captioning" / "captioning.yaml").read_text())
    spec["datasets"][0]["media_root"] = "raw"
    (project / "captioning.yaml").write_text(yaml.safe_dump(spec))
    captions = project / "shape_descriptions"
    program = [sys.executable, "-m", "examples.captioning.prepare"]
    prepare = [*program, "--project", str(project), "--captions", str(captions), "--out", str(project / "shapes.jsonl")]
    assert f"{SHAPES} shapes without a caption" in subprocess.check_output(prepare, cwd=ROOT, text=True)
    run_id = json.loads(fleet.run_producer("enqueue", str(project / "captioning.yaml"), "--json"))["run_id"]
    fleet.start_workers("tiny")
    fleet.wait_for_end(run_id)
    export = ("export", run_id, "--format", "captions", "--names", "id", "--out", str(captions))
    assert f"{SHAPES} written" in fleet.run_producer(*export)
    assert f"{SHAPES} unchanged" in fleet.run_producer(*export)
    assert f"0 shapes without a caption, {SHAPES} with a caption" in subprocess.check_output(prepare, cwd=ROOT, text=True)
    assert_run_is_sound(fleet, run_id)
