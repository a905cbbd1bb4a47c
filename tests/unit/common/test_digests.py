"""Names and digests are unique."""

import socket

import pytest

from common.digests import name_node


def test_slurm_jobs_on_one_machine_have_distinct_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert name_node() == socket.gethostname()
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert name_node() == f"{socket.gethostname()}.4711"
