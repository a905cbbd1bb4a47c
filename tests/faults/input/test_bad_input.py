"""Bad input: every case in ``tests/support/faults/bad_input`` has the outcome given there, and does not affect other samples."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.program.commands import run_command
from common.records import Outcome
from common.settings import get_settings
from producer.cli import cli
from producer.datasets.readers import lines
from tests.support.faults.bad_input.cases import CommandCase, RowCase, matches_message, slugify
from tests.support.faults.bad_input.engine import without_root_powers
from tests.support.faults.bad_input.page import COMMAND, COMMAND_TOPICS, ROW_TOPICS, list_row_cases, make_page
from tests.support.faults.bad_input.remote import BUCKET
from tests.support.faults.bad_input.rows import LONGEST_LINE_BYTES
from tests.support.fleet import ROOT, Fleet, start_fleet
from tests.support.servers.s3_server import put_empty, use_server
from tests.support.soundness import assert_run_is_sound

PAGE = ROOT / "docs" / "bad-input.md"
ROW_CASES = list_row_cases()
COMMAND_CASES = [case for topic in COMMAND_TOPICS for case in topic.cases if isinstance(case, CommandCase)]
DESCRIBING = "tests.support.faults.bad_input.engine:DescribingEngine"

# The media of these cases do not exist. `enqueue` refuses such datasets, unless only the workers can read the files.
_AWAY = {"missing file", "broken link", "path through a file", "video", "number as media", "id of a clip without a file"}

Ended = dict[str, list[Outcome]]


@pytest.fixture(scope="module")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> Iterator[Fleet]:
    with pytest.MonkeyPatch.context() as monkeypatch, start_fleet(tmp_path_factory.mktemp("fleet"), monkeypatch) as fleet:
        use_server(s3_endpoint, monkeypatch)
        put_empty(f"{s3_endpoint}/{BUCKET}")
        fleet.write_profile("quick")
        fleet.write_profile("seeing", engine=DESCRIBING, engine_options={"context_tokens": 1_000_000})
        yield fleet


@pytest.fixture(scope="module")
def run_id(shared_fleet: Fleet) -> str:
    """Run all row cases in one run, each case as a separate dataset. Assert that its results are correct, and return its id."""
    sources = [write_case(shared_fleet.folder / "cases" / slugify(case.name), case) for case in ROW_CASES]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(lines, "LINE_LIMIT_BYTES", LONGEST_LINE_BYTES)
        enqueued = shared_fleet.enqueue(shared_fleet.write_spec("seeing", sources, chunks={"max_samples": 16}))
    for case in ROW_CASES:
        case.change(shared_fleet.folder / "cases" / slugify(case.name))
    shared_fleet.start_workers("seeing")
    shared_fleet.wait_for_end(enqueued.run_id)
    assert_run_is_sound(shared_fleet, enqueued.run_id)
    return enqueued.run_id


@pytest.fixture(scope="module")
def ended(shared_fleet: Fleet, run_id: str) -> Ended:
    """Return the outcomes by dataset."""
    outcomes: Ended = {}
    for outcome in shared_fleet.collect(run_id):
        outcomes.setdefault(outcome.dataset, []).append(outcome)
    return outcomes


def write_case(folder: Path, case: RowCase) -> dict[str, Any]:
    folder.mkdir(parents=True)
    (folder / case.file).write_bytes(case.content)
    case.prepare(folder)
    away = {"digest_media": "never"} if case.name in _AWAY else {}
    return {"path": str(folder / case.file), "name": slugify(case.name), **away, **case.source}


@pytest.mark.parametrize("case", ROW_CASES, ids=lambda case: slugify(case.name))
def test_bad_row_fails_without_stopping_others(shared_fleet: Fleet, run_id: str, ended: Ended, case: RowCase) -> None:
    outcomes = ended[slugify(case.name)]
    neighbours = [outcome for outcome in outcomes if outcome.metadata.get("neighbour") == "yes"]
    assert [neighbour.status for neighbour in neighbours] == ["ok", "ok"]
    own = [outcome for outcome in outcomes if outcome not in neighbours]
    assert len(own) == case.samples
    for outcome in own:
        assert_ends_as_expected(case, outcome)
    counts = shared_fleet.status(run_id).datasets[slugify(case.name)]
    is_failed = case.outcome != "ok"
    assert (counts.unique, counts.duplicates, counts.failed) == (2 + case.samples, case.duplicates, case.samples * is_failed)


def assert_ends_as_expected(case: RowCase, outcome: Outcome) -> None:
    if case.outcome == "ok":
        assert (outcome.status, outcome.error_message) == ("ok", None)
        assert matches_message(case.seen or "ok", outcome.response or "")
    else:
        assert (outcome.status, outcome.error_code) == ("failed", case.outcome), outcome.error_message
        assert matches_message(case.message, outcome.error_message or ""), outcome.error_message
        assert outcome.prediction is None


@pytest.fixture
def work_folder(shared_fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder, with the fleet's settings in the environment and a separate store."""
    for name, value in shared_fleet.environment(store_url=f"file://{tmp_path}/store").items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr("common.logging.configure_log", lambda *_, **__: None)  # pytest captures the logs of this process
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start_producer(arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command in a new process; return its exit code and output."""
    done = subprocess.run([sys.executable, "-m", "producer", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def run_producer(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command in this process, which is faster; return its exit code and output."""
    get_settings.cache_clear()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended, without_root_powers():
        run_command("producer", partial(cli, list(arguments)))
    output = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, output.out + output.err


@pytest.mark.parametrize("case", COMMAND_CASES, ids=lambda case: slugify(case.name))
def test_command_reports_the_fault(
    work_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: CommandCase
) -> None:
    (work_folder / "rows.jsonl").write_text('{"question": "Why?"}\n')
    (work_folder / "spec.yaml").write_bytes(case.spec if isinstance(case.spec, bytes) else case.spec.encode())
    case.prepare(work_folder)
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    code, output = start_producer(case.arguments) if case.starts else run_producer(case.arguments, capsys)
    output = output.replace(f"{work_folder}/", "")
    assert code == case.code, output
    assert matches_message(case.message, output), output


def test_status_reports_model_without_workers(shared_fleet: Fleet) -> None:
    rows = shared_fleet.write_dataset("waiting", [{"question": "What is it?"}])
    run_id = shared_fleet.enqueue(shared_fleet.write_spec("quick", [rows])).run_id
    output = shared_fleet.run_producer("status", run_id)
    assert "waiting for a worker" in output
    assert "no worker serves quick now; start one: workers start --model quick (without a GPU: --gpus none)" in output


def test_at_least_60_cases_have_unique_names() -> None:
    names = [slugify(case.name) for case in ROW_CASES] + [slugify(case.name) for case in COMMAND_CASES]
    assert len(names) >= 60
    assert sorted(names) == sorted(set(names))
    assert len(names) == sum(len(topic.cases) for topic in (*ROW_TOPICS, *COMMAND_TOPICS))


def test_bad_input_page_matches_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == make_page(), f"docs/bad-input.md is stale; run: {COMMAND}"
