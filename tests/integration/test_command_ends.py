"""Commands end cleanly: Ctrl+C at any import, in a destructor, and with native threads that still run."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.commands import INTERRUPT_MESSAGE
from tests.support.fleet import ROOT, Fleet

# Runs a command and sends SIGINT to this process at its n-th import.
AT_IMPORT = """
import builtins, os, signal, sys
from common.commands import run_program

program, at, *arguments = sys.argv[1:]
imports, run_import = 0, builtins.__import__

def count_imports(*given, **named):
    global imports
    imports += 1
    if imports == int(at):
        os.kill(os.getpid(), signal.SIGINT)
    return run_import(*given, **named)

builtins.__import__ = count_imports
sys.argv = [program, *arguments]
run_program(program, program + ".cli")
"""
IN_DESTRUCTOR = """
import os, signal, sys, types
from common.commands import run_program

class Interrupting:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

def command(**given):
    Interrupting()
    for _ in range(10_000_000):
        pass
    return 0

sys.modules["interrupted"] = types.SimpleNamespace(cli=command)
run_program("producer", "interrupted")
"""
WITH_NATIVE_THREADS = """
import sys, threading, types
from common.commands import run_program

def command(**given):
    import pyarrow as pa, pyarrow.compute as pc
    table = pa.table({"a": list(range(100_000))})
    threading.Thread(target=lambda: [table.sort_by("a") for _ in range(10_000)], daemon=True).start()
    print("done")
    return 3

sys.modules["threaded"] = types.SimpleNamespace(cli=command)
run_program("producer", "threaded")
"""


def run_code(code: str, *arguments: str, fleet: Fleet | None = None) -> "subprocess.CompletedProcess[str]":
    environment = fleet.environment() if fleet else None
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("command", [("producer", "status", "echo-000000000000"), ("workers", "start", "--model", "quick")])
def test_interrupt_at_any_import_ends_the_command(fleet: Fleet, command: tuple[str, ...], part: int) -> None:
    fleet.write_profile("quick")
    program, *arguments = command
    at = random.Random(f"{command} {part}").randrange(1 + part * 150, 150 + part * 150)
    ended = run_code(AT_IMPORT, program, str(at), *arguments, fleet=fleet)
    assert (ended.returncode, ended.stderr.strip()) == (130, INTERRUPT_MESSAGE), f"at import {at}"


def test_interrupt_in_a_destructor_is_not_lost() -> None:
    ended = run_code(IN_DESTRUCTOR)
    assert (ended.returncode, ended.stderr.strip()) == (130, INTERRUPT_MESSAGE)


@pytest.mark.parametrize("attempt", range(3))
def test_running_native_threads_do_not_abort_the_end(attempt: int) -> None:
    del attempt
    ended = run_code(WITH_NATIVE_THREADS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "done\n", "")


def test_failed_import_keeps_traceback_and_exit_code(tmp_path: Path) -> None:
    del tmp_path
    ended = run_code("from common.commands import run_program; run_program('producer', 'no_such_module')")
    assert ended.returncode == 1
    assert "ModuleNotFoundError" in ended.stderr


def test_ignored_interrupts_stay_ignored() -> None:
    """A shell starts background commands with SIGINT ignored."""
    code = f"import signal; signal.signal({int(signal.SIGINT)}, signal.SIG_IGN)\n" + IN_DESTRUCTOR
    assert run_code(code).returncode == 0
