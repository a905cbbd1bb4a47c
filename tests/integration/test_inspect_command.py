"""``producer inspect`` as a user runs it: screens, exit codes, and the lines that are pasted into a spec."""

import json
from pathlib import Path

import pytest

from tests.support.fleet import ROOT, Fleet

INPUTS = ROOT / "tests" / "support" / "inputs"
NAMES = sorted(path.name for path in INPUTS.iterdir() if path.suffix in (".jsonl", ".tsv"))
REFUSED = ("video.tsv",)  # all of its rows are faulty


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_pasted_lines_are_enqueued(fleet: Fleet, name: str) -> None:
    fleet.write_profile("quick")
    screen = fleet.run_producer("inspect", str(INPUTS / name))
    spec_path = fleet.folder / "pasted.yaml"
    spec_path.write_text("model: quick\n" + screen.partition("Paste into a spec:\n\n")[2], encoding="utf-8")
    plan = fleet.enqueue(spec_path).plan
    (counts,) = plan.datasets
    faulty = ", ".join(f"{count} {code}" for code, count in (plan.faults or {}).items()) or "none"
    assert f"rows {counts.rows}, unique {counts.unique}, duplicates {counts.duplicates}, faulty rows: {faulty}\n" in screen


@pytest.mark.parametrize("name", REFUSED)
def test_dataset_with_only_faulty_rows_exits_with_2(fleet: Fleet, name: str) -> None:
    message = fleet.run_producer("inspect", str(INPUTS / name), code=2)
    assert "all of its rows are faulty (1)" in message
    assert "Traceback" not in message


def test_user_errors_exit_with_2(fleet: Fleet) -> None:
    rows = str(fleet.write_dataset("rows", [{"question": "Why?"}]))
    cases = {
        ("nowhere.jsonl",): "no file",
        (rows, "--field", "image"): "expected OURS=THEIRS",
        (rows, "--format", "jsnl"): "did you mean 'jsonl'?",
        (rows, "--rows", "-1"): "--rows",
        (): "Missing argument 'PATH...'",
    }
    for arguments, message in cases.items():
        assert message in fleet.run_producer("inspect", *arguments, code=2)


def test_relative_glob_starts_at_current_folder(fleet: Fleet) -> None:
    found = json.loads(fleet.run_producer("inspect", "tests/support/inputs/t*.jsonl", "--json", "--rows", "1"))
    assert [Path(file["path"]).name for file in found["files"]] == ["twins.jsonl"]
    assert (found["rows"], found["unique"], len(found["first_rows"])) == (2, 1, 1)
    assert found["lines"].startswith(f"datasets:\n- path: {ROOT}/tests/support/inputs/t*.jsonl\n")
