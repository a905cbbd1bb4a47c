"""The producer's commands as a user runs them: their output, their exit codes, and their state after a ``kill -9``."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from common.broker.queues import queue_name
from common.spec.files import read_specs
from common.storage.keys import index_key, part_key, run_key, samples_key
from common.storage.plan_index import read_index
from tests.support.faults.signalled_producer import MESSAGES_BEFORE_SIGNAL, POINTS
from tests.support.fleet import ROOT, Fleet, make_rows
from tests.support.planning import put_part, read_rung, run_chunks
from tests.support.soundness import assert_run_is_sound

COMMANDS = ("inspect", "enqueue", "status", "watch", "resume", "cancel", "collect", "export", "evaluate", "demo")


@pytest.fixture
def spec_path(fleet: Fleet) -> str:
    """Return a spec of 60 rows, 10 of them duplicates, in chunks of 8."""
    fleet.write_profile("quick")
    rows = [*make_rows(50), *make_rows(10)]
    return str(fleet.write_spec("quick", [fleet.write_dataset("rows", rows)], chunks={"max_samples": 8}))


@pytest.fixture
def run_id(fleet: Fleet, spec_path: str) -> str:
    """Enqueue that spec and return the run's id."""
    return fleet.enqueue(Path(spec_path)).run_id


def start_producer(fleet: Fleet, *arguments: str, module: str = "producer", **settings: str) -> "subprocess.Popen[str]":
    """Start a command. Keyword arguments are ``FLEET_*`` settings."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**fleet.environment(**settings), "TMPDIR": str(fleet.folder)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_each(fleet: Fleet, *commands: Iterable[str], **settings: str) -> list[tuple[int, str, str]]:
    """Run commands, two at a time; return exit code, standard output and standard error of each."""

    def run(arguments: Iterable[str]) -> tuple[int, str, str]:
        started = start_producer(fleet, *arguments, **settings)
        out, err = started.communicate(timeout=90)
        return started.returncode, out, err

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, commands))


def read_json(fleet: Fleet, *arguments: str, code: int = 0) -> Any:
    return json.loads(fleet.run_producer(*arguments, code=code))


def list_everything(fleet: Fleet) -> tuple[list[str], int]:
    """Return the keys of the store and the number of keys in Redis."""
    return sorted(fleet.store.list_keys()), int(fleet.ledger.client.dbsize())


# Help


def test_help_describes_every_command(fleet: Fleet) -> None:
    (_, overview, _), *explained = run_each(fleet, ["--help"], *([command, "--help"] for command in COMMANDS))
    assert all(f"\n  {command} " in overview for command in COMMANDS)
    assert "..." not in overview.partition("Commands:")[2], "no summary may be cut"
    for command, (code, output, _) in zip(COMMANDS, explained, strict=True):
        assert code == 0
        assert output.startswith(f"Usage: producer {command} [OPTIONS]")
        assert ("--json" in output) == (command not in ("watch", "demo"))
        assert max(map(len, output.splitlines())) <= 80


# Enqueue


def test_dry_run_prints_digest_without_writing(fleet: Fleet, spec_path: str) -> None:
    [described] = read_json(fleet, "enqueue", spec_path, "--dry-run", "--set", "generation.max_tokens=9")
    assert described["run_id"] == f"quick-{described['digest'][:12]}"
    assert described["datasets"] == [{"name": "rows", "rows": 60, "unique": 50, "duplicates": 10}]
    assert (described["samples"], described["chunks"], described["faults"]) == (50, 7, 0)
    assert described["spec"]["generation"]["max_tokens"] == 9
    assert list_everything(fleet) == ([], 0)


def test_dry_run_lists_notices_and_faults(fleet: Fleet) -> None:
    fleet.write_profile("quick")
    rows = [{"question": "Why?", "label": "x", "id": number} for number in range(3)]
    spec = fleet.write_spec("quick", [fleet.write_dataset("rows", [*rows, {"id": 3, "label": "y"}])])
    [described] = read_json(fleet, "enqueue", str(spec), "--dry-run")
    assert (described["faults"], described["faults_by_code"]) == (1, {"missing_question": 1})
    assert [(notice["event"], notice.get("column"), notice["rows"]) for notice in described["notices"]] == [
        ("dataset.column_unused", "label", 4),
        ("dataset.rows_alike", None, 4),
    ]
    assert described["notices"][0]["hint"] == "use it with fields: {target: label}, or leave it out with ignore: [label]"


def test_enqueue_of_faulty_dataset_exits_with_2(fleet: Fleet) -> None:
    fleet.write_profile("quick")
    spec = fleet.write_spec("quick", [fleet.write_dataset("rows", [{"id": 1}, {"id": 2}])])
    error = fleet.run_producer("enqueue", str(spec), code=2)
    assert "rows.jsonl: no row has a question; columns: id; expected fields: {question: COLUMN} in the dataset" in error
    assert list_everything(fleet) == ([], 0)


def test_enqueue_prints_its_result_as_text_and_json(fleet: Fleet, spec_path: str) -> None:
    first = read_json(fleet, "enqueue", spec_path, "--json")
    assert (first["planned"], first["opened"], first["rung"], first["plan"]["samples"]) == (True, True, 7, 50)
    output = fleet.run_producer("enqueue", spec_path)
    assert f"{first['run_id']}: 60 rows, 50 samples in 7 chunks (planned before)" in output
    assert "rows 60, unique 50, duplicates 10, faulty rows: none" in output
    assert f"producer watch {first['run_id']}" in output
    changed = read_json(fleet, "enqueue", spec_path, "--set", "shuffle.seed=1", "--set", "datasets.0.limit=20", "--json")
    assert changed["run_id"] != first["run_id"]
    assert changed["plan"]["samples"] == 20


def test_each_model_prints_one_line_of_json(fleet: Fleet, spec_path: str) -> None:
    output = fleet.run_producer("enqueue", spec_path, "--set", "model=", "--set", "models=[quick, echo]", "--json")
    assert [json.loads(line)["model"] for line in output.splitlines()] == ["quick", "echo"]


def test_user_error_exits_with_2_and_advice(fleet: Fleet, spec_path: str) -> None:
    cases = {
        ("enqueue", "nowhere.yaml"): "producer: nowhere.yaml: no such file",
        ("enqueue", spec_path, "--set", "generation.max_tokns=9"): f"producer: {spec_path}: generation.max_tokns: unknown field",
        ("enqueue", spec_path, "--set", "datasets.0.limit"): "producer: --set 'datasets.0.limit': expected FIELD=VALUE",
        ("enqueue",): "Missing argument 'SPEC'",
        ("statsu",): "Did you mean 'status'?",
    }
    for (code, out, output), expected in zip(run_each(fleet, *cases), cases.values(), strict=True):
        assert (code, out) == (2, "")
        assert expected in output
    assert list_everything(fleet) == ([], 0)


def test_unknown_run_exits_with_2_without_changes(fleet: Fleet) -> None:
    folder = fleet.folder / "out"
    cases = [["status"], ["watch"], ["resume"], ["resume", "--rebuild"], ["collect", "--out", str(folder)], ["evaluate"]]
    cases.append(["export", "--format", "captions", "--out", str(folder)])
    for code, out, output in run_each(fleet, *([*case, "quick-0"] for case in cases)):
        assert (code, out) == (2, "")
        assert "no run 'quick-0' in file://" in output
        assert "FLEET_STORE_URL" in output
    assert not folder.exists()
    assert list_everything(fleet) == ([], 0)


# Status, watch, collect, evaluate


def test_status_counts_of_running_run_add_up(fleet: Fleet, run_id: str) -> None:
    run_chunks(fleet, "quick", run_id, [0, 1])
    fleet.ledger.acquire(run_id, 2, "gpu0@test")
    status = read_json(fleet, "status", run_id, "--json")
    assert list(status) == [
        *("run_id", "model", "state", "reason", "samples", "datasets", "retrying"),
        *("samples_per_s", "tokens_per_s", "eta_s", "workers", "quarantine"),
    ]  # fmt: skip
    counts = {"rows": 60, "unique": 50, "duplicates": 10, "ok": 16, "invalid": 0, "failed": 0, "in_flight": 8, "unprocessed": 26}
    assert status["samples"] == status["datasets"]["rows"] == counts
    assert status["eta_s"] == pytest.approx(34 / status["samples_per_s"])
    assert "16/50 samples" in fleet.run_producer("status", run_id)


def test_only_complete_runs_exit_with_0(fleet: Fleet, run_id: str) -> None:
    out = ["--out", str(fleet.folder / "out")]
    run_chunks(fleet, "quick", run_id, range(6))
    collected = read_json(fleet, "collect", run_id, *out, "--json", code=1)["samples"]
    assert collected == {"ok": 60 - collected["unprocessed"], "unprocessed": collected["unprocessed"]}
    assert 2 <= collected["unprocessed"] <= 4  # two samples, each with at most one duplicate
    assert read_json(fleet, "evaluate", run_id, "--json", code=1)["overall"]["unprocessed"] == collected["unprocessed"]
    run_chunks(fleet, "quick", run_id)
    assert fleet.run_producer("collect", run_id, *out) == f"{fleet.folder}/out/results.parquet and .jsonl: 60 ok\n"
    assert read_json(fleet, "evaluate", run_id, "--json")["overall"]["accuracy"] == 1.0
    assert "all" not in fleet.run_producer("evaluate", run_id).split()
    assert fleet.run_producer("watch", run_id) == f"{run_id}: 50/50 samples · done\n"
    assert_run_is_sound(fleet, run_id)


def test_watch_exits_with_1_after_failed_samples(fleet: Fleet, run_id: str) -> None:
    for chunk in read_index(fleet.store, run_id):
        put_part(fleet.store, chunk, statuses=("ok", "failed"))
    fleet.run_producer("resume", run_id, "--rebuild")
    assert fleet.run_producer("watch", run_id, code=1) == f"{run_id}: 50/50 samples · done · 25 failed\n"


def test_export_writes_only_ok_rows(fleet: Fleet) -> None:
    fleet.write_profile("quick")
    spec = fleet.write_spec("quick", [fleet.write_dataset("rows", make_rows(50))], chunks={"max_samples": 8})
    run_id = fleet.enqueue(spec).run_id
    run_chunks(fleet, "quick", run_id, range(6))
    folder = fleet.folder / "out"
    export = ("export", run_id, "--format", "captions", "--out", str(folder))
    assert "no row has an image file with a name" in fleet.run_producer(*export, code=2)
    assert not folder.exists()
    found = read_json(fleet, *export, "--names", "id", "--json", code=1)
    assert (found["written"], found["statuses"]) == (48, {"ok": 48, "unprocessed": 2})
    assert [(row["dataset"], row["status"]) for row in found["left_out"]] == [("rows", "unprocessed")] * 2
    run_chunks(fleet, "quick", run_id)
    output = fleet.run_producer(*export, "--names", "id")
    assert output == f"{folder}: 2 written, 0 replaced, 48 unchanged, 0 left out\n"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {f"{number}.txt": "ok" for number in range(50)}
    assert "Invalid value for '--format'" in fleet.run_producer("export", run_id, "--format", "caption", "--out", "out", code=2)


def test_collect_reports_unwritable_folder(fleet: Fleet, run_id: str, spec_path: str) -> None:
    assert f"results cannot be written to {spec_path}/out" in fleet.run_producer(
        "collect", run_id, "--out", f"{spec_path}/out", code=2
    )


def test_collect_reports_damaged_part_without_traceback(fleet: Fleet, run_id: str) -> None:
    run_chunks(fleet, "quick", run_id)
    fleet.store.put(part_key(run_id, 1, 3), b"PAR1 nothing PAR1")
    [(code, _, output)] = run_each(fleet, ["collect", run_id, "--out", str(fleet.folder / "out")])
    assert code == 1
    assert f"producer: part of run {run_id}, chunk 3" in output
    assert "Traceback" not in output
    assert list((fleet.folder / "out").iterdir()) == []


def test_resume_prints_how_many_chunks_it_published(fleet: Fleet, run_id: str) -> None:
    run_chunks(fleet, "quick", run_id, [0])
    assert read_json(fleet, "resume", run_id, "--json") == {
        "run_id": run_id,
        "state": "running",
        "rung": 6,
        "retried": 0,
    }
    assert f"{run_id}: enqueued 6 chunks; follow with: producer watch" in fleet.run_producer("resume", run_id, "--rebuild")


def test_retry_accepts_only_failed_and_invalid(fleet: Fleet, run_id: str) -> None:
    output = fleet.run_producer("resume", run_id, "--retry", "failed,unprocessed", code=2)
    assert "'unprocessed' cannot be run again; expected failed, invalid or failed,invalid" in output
    assert "no failed samples to run again" in fleet.run_producer("resume", run_id, "--retry", "failed")


def test_unreachable_redis_exits_with_3_and_advice(fleet: Fleet, spec_path: str) -> None:
    for code, _, output in run_each(
        fleet, ["status", "quick-0"], ["enqueue", spec_path], redis_url="redis://:hidden@127.0.0.1:1/0"
    ):
        assert code == 3
        assert "Redis at 127.0.0.1:1/0 does not answer" in output
        assert "FLEET_REDIS_URL" in output
        assert "hidden" not in output
        assert "Traceback" not in output


def test_interrupted_watch_exits_with_130(fleet: Fleet, run_id: str) -> None:
    watching = start_producer(fleet, "watch", run_id)
    assert watching.stdout is not None
    assert watching.stdout.readline() == f"{run_id}: 0/50 samples · waiting for a worker\n"
    watching.send_signal(signal.SIGINT)
    _, output = watching.communicate(timeout=60)
    assert (watching.returncode, output.strip()) == (130, "interrupted; nothing is lost, run the same command again")
    assert fleet.status(run_id).state == "running"


# Faults


@pytest.mark.parametrize("point", POINTS)
def test_killed_enqueue_completes_when_repeated(fleet: Fleet, point: str) -> None:
    fleet.write_profile("quick")
    count = 2 * MESSAGES_BEFORE_SIGNAL + 50 if point == "while_ringing" else 60
    spec = fleet.write_spec("quick", [fleet.write_dataset("rows", make_rows(count))], chunks={"max_samples": 2})
    [asked] = read_specs(spec)
    run_id = asked.run_id
    if point == "while_committing_parts":  # at enqueue, only a run that Redis has lost has parts
        fleet.enqueue(spec)
        for chunk in [*read_index(fleet.store, run_id)][::5]:
            put_part(fleet.store, chunk)
        fleet.ledger.client.flushall()

    dying = start_producer(fleet, point, "enqueue", str(spec), module="tests.support.faults.signalled_producer")
    _, output = dying.communicate(timeout=60)
    assert dying.returncode == -signal.SIGKILL, output
    assert_died_at(fleet, run_id, point)

    again = read_json(fleet, "enqueue", str(spec), "--json")
    assert again["run_id"] == run_id
    assert again["planned"] == (point in ("after_samples", "after_index"))
    pending = set(fleet.ledger.iterate_pending(run_id))
    assert pending <= set(read_rung(fleet.ledger.client, "quick"))
    assert again["rung"] == len(pending)
    run_chunks(fleet, "quick", run_id)
    assert len(assert_run_is_sound(fleet, run_id)) == count


def assert_died_at(fleet: Fleet, run_id: str, point: str) -> None:
    there = [key for key in (samples_key(run_id), index_key(run_id), run_key(run_id)) if fleet.store.exists(key)]
    assert len(there) == {"after_samples": 1, "after_index": 2}.get(point, 3)
    is_open = fleet.ledger.view_run(run_id) is not None
    assert is_open == (point in ("after_open", "while_committing_parts", "while_ringing"))
    rung = read_rung(fleet.ledger.client, "quick")
    assert rung == (list(range(1000)) if point == "while_ringing" else []), "only complete batches may have been sent"


def test_two_simultaneous_producers_create_one_run(fleet: Fleet, spec_path: str) -> None:
    results = [json.loads(out) for _, out, _ in run_each(fleet, *[["enqueue", spec_path, "--json"]] * 2)]
    assert results[0]["run_id"] == results[1]["run_id"]
    assert sorted([results[0]["opened"], results[1]["opened"]]) == [False, True]
    run_id = results[0]["run_id"]
    assert set(read_rung(fleet.ledger.client, "quick")) == set(range(7))
    fleet.ledger.client.delete(queue_name("quick"))
    run_chunks(fleet, "quick", run_id)
    assert len(assert_run_is_sound(fleet, run_id)) == 50
