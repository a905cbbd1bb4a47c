"""An object of the plan is missing or damaged: the error names it, and enqueueing the same spec writes it again."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import ConfigError, IntegrityError
from common.records import Outcome
from common.storage.keys import index_key, parts_prefix, run_key, samples_key, twins_key
from producer.results.collect import collect_rows
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.planning import run_chunks
from tests.support.producers import run_to_end
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

SAMPLES, TWINS = 160, 20
OBJECTS = {"samples": samples_key, "twins": twins_key, "index": index_key, "run.json": run_key}
ONLY_COLLECTED = ("samples", "twins")  # commands that only read counts do not read these objects


def delete(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {"missing": delete, "cut short": cut_short, "a byte flipped": flip_a_byte}


@pytest.fixture
def spec(fleet: Fleet) -> Path:
    """Return a spec of 20 chunks for an engine that records its requests."""
    options = {"delay_s": 0.05, "asked": str(fleet.folder / "asked")}
    fleet.write_profile("recording", engine="tests.support.engines.dying_engine:RecordingEngine", engine_options=options)
    rows = fleet.write_dataset("rows", [*make_rows(SAMPLES), *make_rows(TWINS)])
    return fleet.write_spec("recording", [rows], chunks={"max_samples": 8})


def find_object(fleet: Fleet, run_id: str, name: str) -> Path:
    return fleet.folder / "store" / OBJECTS[name](run_id)


def assert_names_object_and_remedy(output: str, fleet: Fleet, run_id: str, name: str) -> None:
    text = " ".join(output.split())
    if name == "run.json" and not find_object(fleet, run_id, name).exists():
        assert f"no run '{run_id}' in {fleet.store.url}" in text
    else:
        assert OBJECTS[name](run_id) in text
        assert "enqueue the same spec again" in text
    assert "Traceback" not in text


def is_detected_by_enqueue(name: str, how: str) -> bool:
    """Return whether ``enqueue`` detects the damage. It does not read all samples and twins."""
    return name not in ONLY_COLLECTED or how != "a byte flipped"


def repair(fleet: Fleet, spec: Path, run_id: str, name: str, how: str) -> str:
    """Repair the plan as the message says; return what ``enqueue`` printed."""
    if not is_detected_by_enqueue(name, how):
        find_object(fleet, run_id, name).unlink()
    output = fleet.run_producer("enqueue", str(spec))
    assert "(planned before)" not in output
    return output


def assert_each_was_asked_once(fleet: Fleet) -> None:
    asked = Counter((fleet.folder / "asked").read_text().split())
    assert set(asked.values()) == {1}
    assert len(asked) == SAMPLES


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", OBJECTS)
def test_damaged_plan_is_reported_and_rewritten(fleet: Fleet, spec: Path, name: str, how: str) -> None:
    run_id = fleet.enqueue(spec).run_id
    whole = {key: fleet.store.get(key(run_id)) for key in (samples_key, twins_key, index_key)}
    run_chunks(fleet, "recording", run_id, [0, 1, 2])
    DAMAGES[how](find_object(fleet, run_id, name))

    def collect(run_id: str) -> list[Outcome]:
        return list(collect_rows(run_id, fleet.store))

    readers: list[Callable[[str], object]] = [collect] if name in ONLY_COLLECTED else [collect, fleet.status]
    for read in readers:
        with pytest.raises(ConfigError if (name, how) == ("run.json", "missing") else IntegrityError) as caught:
            read(run_id)
        assert_names_object_and_remedy(str(caught.value), fleet, run_id, name)

    repair(fleet, spec, run_id, name, how)
    assert {key: fleet.store.get(key(run_id)) for key in (samples_key, twins_key, index_key)} == whole
    run_chunks(fleet, "recording", run_id)
    assert_run_is_sound(fleet, run_id)
    assert_each_was_asked_once(fleet)


@pytest.mark.parametrize("name", OBJECTS)
def test_commands_report_truncated_plan_without_losing_samples(fleet: Fleet, spec: Path, name: str) -> None:
    run_id = fleet.enqueue(spec).run_id
    run_chunks(fleet, "recording", run_id, [0, 1, 2])
    DAMAGES["cut short"](find_object(fleet, run_id, name))
    commands = [["collect", run_id, "--out", str(fleet.folder / "out")], ["evaluate", run_id]]
    for command in commands if name in ONLY_COLLECTED else [*commands, ["status", run_id], ["resume", run_id, "--rebuild"]]:
        code, _, output = run_to_end(fleet, *command)
        assert code == 1, command
        assert_names_object_and_remedy(output, fleet, run_id, name)
    repair(fleet, spec, run_id, name, "cut short")
    run_chunks(fleet, "recording", run_id)
    assert_run_is_sound(fleet, run_id)
    assert_each_was_asked_once(fleet)


@pytest.mark.parametrize(("name", "how"), [("index", "missing"), ("run.json", "a byte flipped"), ("run.json", "missing")])
def test_damaged_plan_pauses_run_at_first_read(clean_fleet: Fleet, spec: Path, name: str, how: str) -> None:
    fleet = clean_fleet
    run_id = fleet.enqueue(spec).run_id
    DAMAGES[how](find_object(fleet, run_id, name))
    fleet.start_workers("recording", chunks_in_flight=2)
    assert_names_object_and_remedy(wait_for_pause(fleet, run_id), fleet, run_id, name)
    output = repair(fleet, spec, run_id, name, how)
    assert f"producer resume {run_id}" in output
    fleet.run_producer("resume", run_id)
    fleet.wait_for_end(run_id)
    assert_run_is_sound(fleet, run_id)
    assert_each_was_asked_once(fleet)


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_samples_pause_run_until_repaired(clean_fleet: Fleet, spec: Path, how: str) -> None:
    fleet = clean_fleet
    run_id = start_run(fleet, spec)
    DAMAGES[how](find_object(fleet, run_id, "samples"))
    assert_names_object_and_remedy(wait_for_pause(fleet, run_id), fleet, run_id, "samples")
    repair(fleet, spec, run_id, "samples", how)
    fleet.run_producer("resume", run_id)
    fleet.wait_for_end(run_id)
    assert_run_is_sound(fleet, run_id)
    assert_each_was_asked_once(fleet)


@pytest.mark.parametrize("name", ["index", "run.json"])
def test_worker_with_loaded_plan_finishes_without_it(clean_fleet: Fleet, spec: Path, name: str) -> None:
    """Only commands need the missing object afterwards."""
    fleet = clean_fleet
    run_id = start_run(fleet, spec)
    find_object(fleet, run_id, name).unlink()
    wait_until(lambda: (view := fleet.ledger.view_run(run_id)) and view.state == "done", "the end of the run")
    assert run_to_end(fleet, "collect", run_id, "--out", str(fleet.folder / "out")).code == (2 if name == "run.json" else 1)
    repair(fleet, spec, run_id, name, "missing")
    assert_run_is_sound(fleet, run_id)
    assert_each_was_asked_once(fleet)


@pytest.mark.parametrize("how", DAMAGES)
def test_wave_with_damaged_index_can_be_deleted(fleet: Fleet, how: str) -> None:
    rows: list[dict[str, object]] = [*make_rows(20), {"id": "bad", "target": "ok"}]  # a sample without a question always fails
    fleet.write_profile("quick")
    run_id = enqueue_rows(fleet, "quick", rows, chunk=8)
    run_chunks(fleet, "quick", run_id)
    earlier = assert_run_is_sound(fleet, run_id)
    fleet.run_producer("resume", run_id, "--retry", "failed")
    run_chunks(fleet, "quick", run_id)
    DAMAGES[how](fleet.folder / "store" / index_key(run_id, 2))
    for command in (["collect", run_id, "--out", str(fleet.folder / "out")], ["resume", run_id, "--rebuild"]):
        code, _, output = run_to_end(fleet, *command)
        assert code == 1, command
        for text in (index_key(run_id, 2), f"{parts_prefix(run_id)}w2/", f"producer resume {run_id} --rebuild"):
            assert text in " ".join(output.split())

    for key in (index_key(run_id, 2), f"{parts_prefix(run_id)}w2"):
        path = fleet.folder / "store" / key
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    fleet.run_producer("resume", run_id, "--rebuild")
    assert assert_run_is_sound(fleet, run_id) == earlier


def start_run(fleet: Fleet, spec: Path) -> str:
    """Start a run; return its id once a worker has written three parts."""
    run_id = fleet.enqueue(spec).run_id
    fleet.start_workers("recording", chunks_in_flight=2)
    wait_until(lambda: len(list(fleet.store.list_keys(parts_prefix(run_id)))) >= 3, "three parts")
    return run_id


def wait_for_pause(fleet: Fleet, run_id: str) -> str:
    """Return the reason of the run's pause."""
    return wait_until(
        lambda: view.reason if (view := fleet.ledger.view_run(run_id)) and view.state == "paused" else None, "a paused run"
    )
