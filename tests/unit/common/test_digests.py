"""Names and digests that must not collide."""

import socket

import pytest

from common.digests import name_node


def test_jobs_of_slurm_on_one_machine_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert name_node() == socket.gethostname()
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert name_node() == f"{socket.gethostname()}.4711"
