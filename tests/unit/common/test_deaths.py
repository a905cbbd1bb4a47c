"""Causes of process death: which causes count as strikes, and the kernel's count of out-of-memory kills."""

import signal
from pathlib import Path

import pytest

from common.deaths import DeathCause, classify_exit, count_oom_kills

CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}


@pytest.mark.parametrize("number", sorted(signal.valid_signals()))
def test_only_crash_signals_are_attributed(number: int) -> None:
    expected = DeathCause.CRASH if number in CRASHES else DeathCause.KILL
    assert classify_exit(-number, out_of_memory=False) == expected
    assert expected.is_attributed == (number in CRASHES)


@pytest.mark.parametrize(
    ("code", "out_of_memory", "cause"),
    [
        (0, False, DeathCause.CRASH),
        (1, False, DeathCause.CRASH),
        (70, False, DeathCause.CRASH),
        (None, False, DeathCause.KILL),
        (-signal.SIGKILL, True, DeathCause.OUT_OF_MEMORY),
        (1, True, DeathCause.OUT_OF_MEMORY),
        (-signal.SIGSEGV, True, DeathCause.CRASH),
    ],
)
def test_exit_code_determines_the_cause(code: int | None, out_of_memory: bool, cause: DeathCause) -> None:
    """An engine may exit by itself because the system killed one of its children."""
    assert classify_exit(code, out_of_memory=out_of_memory) == cause


def test_stall_is_attributed_unlike_out_of_memory() -> None:
    assert [cause.is_attributed for cause in DeathCause] == [True, True, False, False]


@pytest.mark.parametrize(
    ("membership", "file", "content", "kills"),
    [
        ("0::/user/x.scope\n", "user/x.scope/memory.events", "low 0\noom 4\noom_kill 3\noom_group_kill 0\n", 3),
        ("0::/\n", "memory.events", "oom_kill 0\n", 0),
        ("4:memory:/slurm\n0::/\n", "memory/slurm/memory.oom_control", "under_oom 0\noom_kill 2\n", 2),
        ("0::/\n", "elsewhere", "", 0),
        ("0::/\n", "memory.events", "not a table\n", 0),
    ],
)
def test_oom_kills_are_read_from_the_cgroup(tmp_path: Path, membership: str, file: str, content: str, kills: int) -> None:
    (tmp_path / "cgroup").write_text(membership)
    counters = tmp_path / "fs" / file
    counters.parent.mkdir(parents=True)
    counters.write_text(content)
    assert count_oom_kills(tmp_path / "fs", tmp_path / "cgroup") == kills
    assert count_oom_kills(tmp_path / "fs", tmp_path / "missing") == 0
