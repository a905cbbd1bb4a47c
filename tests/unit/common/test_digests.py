"""Node names are unique, and run ids have a fixed format."""

import socket

import pytest

from common.digests import is_run_id, name_node


def test_slurm_jobs_on_one_machine_have_distinct_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert name_node() == socket.gethostname()
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert name_node() == f"{socket.gethostname()}.4711"


@pytest.mark.parametrize("value", ["tiny-1f0c92b4d7aa", "a" * 64 + "-1f0c92b4d7aa", "A.b_c-0"])
def test_run_id_format_is_recognized(value: str) -> None:
    assert is_run_id(value)


@pytest.mark.parametrize("value", ["", "x" * 60_000_000, "../run", "a/b", "a\n", "a{b}", "\x1b[2J", "*", "é", None, 7, True, ["a"]])
def test_other_values_are_not_run_ids(value: object) -> None:
    assert not is_run_id(value)
