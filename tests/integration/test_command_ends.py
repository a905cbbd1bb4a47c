"""Commands end cleanly: after Ctrl+C or SIGTERM at any moment, and with native threads that still run."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.program.interrupts import INTERRUPT_MESSAGE
from tests.support.fleet import ROOT, Fleet, make_rows
from tests.support.fleet_processes import find_processes
from tests.support.interrupted_commands import (
    CLEANING_UP,
    FAULT_SWALLOWED,
    HELD,
    HELD_IN_NATIVE_CODE,
    HELD_UNTIL_USE,
    IN_DESTRUCTOR,
    IN_NATIVE_CODE,
    IN_USE,
    PRINTED_BY_NATIVE_CODE,
    REPLACED,
    REPLACED_AT_IMPORT,
    REPLACED_AT_IMPORT_OF_CLICK,
    SWALLOWED,
    WITH_NATIVE_THREADS,
)
from tests.support.planning import run_chunks
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

BY = pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)

# Run a program and send it a signal at the n-th call of a function. With n = 0, print the number of calls until the end of the
# program. ``workers start`` does not end by itself, so it gets the signal when the launcher begins to run.
AT_CALL = """
import atexit, os, runpy, sys

program, at, number, *arguments = sys.argv[1:]
calls, at, number = 0, int(at), int(number)

def count_calls(frame, event, argument):
    global calls
    calls += event == "call"
    if event == "call" and (calls == at or not at and frame.f_code.co_qualname == "Launcher.run"):
        sys.setprofile(None)
        os.kill(os.getpid(), number)

def print_calls():
    sys.setprofile(None)
    os.write(2, b"%d" % calls)

from common.program import interrupts
handle = interrupts.handle_interrupts

def handle_and_count():
    handle()
    sys.setprofile(count_calls)

interrupts.handle_interrupts = handle_and_count
if not at:
    atexit.register(print_calls)
sys.argv = [program, *arguments]
runpy.run_module(program, run_name="__main__")
"""
# Run the body of COMMAND as a command of a program.
WITH_COMMAND = """
import sys, types
from common.program.interrupts import handle_interrupts

handle_interrupts()
from common.program.commands import run_program

{body}

sys.modules["given"] = types.SimpleNamespace(cli=command)
run_program("producer", "given")
"""
COMMANDS = (
    *("producer --help", "producer enqueue SPEC --dry-run", "producer enqueue SPEC", "producer status RUN", "producer watch RUN"),
    *("producer resume RUN", "producer cancel RUN", "producer collect RUN --out OUT", "producer evaluate RUN"),
    *("producer inspect ROWS", "workers check --model quick", "workers start --model quick --gpus none"),
)


def run_code(code: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONHASHSEED": "0", **environment},
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def run_body(body: str) -> "subprocess.CompletedProcess[str]":
    return run_code(WITH_COMMAND.format(body=body))


@pytest.fixture
def run_id(fleet: Fleet) -> str:
    """Return a run that is done, so that its commands make the same calls at each repetition."""
    fleet.write_profile("quick")
    run_id = enqueue_rows(fleet, "quick", make_rows(20), chunk=5)
    run_chunks(fleet, "quick", run_id)
    return run_id


@pytest.mark.parametrize("command", COMMANDS)
def test_signal_at_any_call_ends_the_command(fleet: Fleet, run_id: str, command: str) -> None:
    files = {"SPEC": "quick.spec.yaml", "ROWS": "rows.jsonl", "OUT": "out"}
    named = {"RUN": run_id, **{word: str(fleet.folder / name) for word, name in files.items()}}
    program, *arguments = [named.get(word, word) for word in command.split()]

    def run_until(call: int, by: signal.Signals) -> "subprocess.CompletedProcess[str]":
        return run_code(AT_CALL, program, str(call), str(int(by)), *arguments, **fleet.environment())

    calls = int(run_until(0, signal.SIGTERM).stderr.rpartition("\n")[2])
    chosen = random.Random(command)
    for stratum in range(6):
        call, by = int(calls * (stratum + chosen.random()) / 6.2) + 1, (signal.SIGINT, signal.SIGTERM)[stratum % 2]
        ended = run_until(call, by)
        assert (ended.returncode, ended.stderr.strip()) == (130, INTERRUPT_MESSAGE), f"{by.name} at call {call} of {calls}"
    assert [path for path in fleet.folder.rglob("*") if path.suffix == ".tmp"] == []


@BY
def test_signal_at_launcher_start_ends_the_command(fleet: Fleet, by: signal.Signals) -> None:
    fleet.write_profile("quick")
    arguments = ("start", "--model", "quick", "--gpus", "none")
    calls = int(run_code(AT_CALL, "workers", "0", str(int(by)), *arguments, **fleet.environment()).stderr.rpartition("\n")[2])
    for call in (calls - 20, calls + 1, calls + 5, calls + 9, calls + 20):
        ended = run_code(AT_CALL, "workers", str(call), str(int(by)), *arguments, **fleet.environment())
        assert "Traceback" not in ended.stderr
        assert ended.returncode in (0, 130), f"{by.name} at call {call}, {calls} before the launcher runs"
    wait_until(lambda: not find_processes(fleet), "the end of the workers")


@BY
@pytest.mark.parametrize(
    "body", [IN_DESTRUCTOR, SWALLOWED, PRINTED_BY_NATIVE_CODE], ids=["destructor", "bare except", "native code"]
)
def test_lost_interrupt_is_sent_again(body: str, by: signal.Signals) -> None:
    ended = run_body(body.format(by=int(by)))
    assert (ended.returncode, ended.stderr.strip()) == (130, INTERRUPT_MESSAGE)


@BY
@pytest.mark.parametrize(
    "error", ["ValueError('odd')", "ConfigError('odd')", "click.UsageError('odd')", "PanicException('odd')", "OSError(4, 'odd')"]
)
def test_interrupt_replaced_by_library_error_is_recovered(error: str, by: signal.Signals) -> None:
    """pydantic, for example, raises its own error if a signal arrives while its native code calls Python."""
    ended = run_body(REPLACED.format(by=int(by), error=error))
    assert (ended.returncode, ended.stdout, ended.stderr.strip()) == (130, "", INTERRUPT_MESSAGE)


@BY
@pytest.mark.parametrize(
    "body",
    [REPLACED_AT_IMPORT, REPLACED_AT_IMPORT_OF_CLICK, FAULT_SWALLOWED],
    ids=["at import", "at import of click", "swallowed"],
)
def test_interrupt_caught_by_other_code_is_recovered(body: str, by: signal.Signals) -> None:
    ended = run_body(body.format(by=int(by)))
    assert (ended.returncode, ended.stdout, ended.stderr.strip()) == (130, "", INTERRUPT_MESSAGE)


@BY
def test_interrupted_command_completes_its_cleanup(by: signal.Signals) -> None:
    ended = run_body(CLEANING_UP.format(by=int(by)))
    assert (ended.returncode, ended.stdout, ended.stderr.strip()) == (130, "cleaned up\n", INTERRUPT_MESSAGE)


@BY
@pytest.mark.parametrize(
    "body", [HELD, HELD_UNTIL_USE, IN_USE, HELD_IN_NATIVE_CODE], ids=["held", "until use", "in use", "native code"]
)
def test_held_interrupt_is_raised_at_the_end(body: str, by: signal.Signals) -> None:
    ended = run_body(body.format(by=int(by)))
    assert (ended.returncode, ended.stdout, ended.stderr.strip()) == (130, "completed\n", INTERRUPT_MESSAGE)


@BY
def test_interrupt_ends_a_command_in_native_code(by: signal.Signals) -> None:
    """Python does not run signal handlers until a native call returns, such as a request to a slow object store."""
    command = [sys.executable, "-c", WITH_COMMAND.format(body=IN_NATIVE_CODE)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "blocked\n"
        started.send_signal(by)
        _, error = started.communicate(timeout=60)
    assert (started.returncode, error.strip()) == (130, INTERRUPT_MESSAGE)


def test_text_of_system_exit_is_printed() -> None:
    ended = run_body("import sys\ndef command(**given):\n    sys.exit('the driver does not answer')\n")
    assert (ended.returncode, ended.stderr) == (1, "the driver does not answer\n")


def test_traceback_of_unexpected_exception_is_masked() -> None:
    ended = run_body("def command(**given):\n    raise RuntimeError('redis://:s3cret-word@host refuses')\n")
    assert ended.returncode == 1
    assert "RuntimeError: redis://***@host refuses" in ended.stderr
    assert "in command" in ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_unwritten_output_is_an_error() -> None:
    code = WITH_COMMAND.format(body="def command(**given):\n    print('answer')\n    return 0\n")
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=buffered,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, "the output could not be written: No space left on device\n")


def test_ignored_interrupts_stay_ignored() -> None:
    """A shell starts background commands with SIGINT ignored."""
    body = f"import os\ndef command(**given):\n    os.kill(os.getpid(), {int(signal.SIGINT)})\n    return 0\n"
    code = f"import signal; signal.signal({int(signal.SIGINT)}, signal.SIG_IGN)\n" + WITH_COMMAND.format(body=body)
    assert run_code(code).returncode == 0


def test_native_threads_do_not_abort_process_exit() -> None:
    ended = run_body(WITH_NATIVE_THREADS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "done\n", "")


def test_drained_worker_with_native_threads_exits_with_zero(fleet: Fleet) -> None:
    fleet.write_profile("native", engine="tests.support.engines.faulty_engines:NativeThreadsEngine")
    fleet.start_workers("native")
    (worker,) = fleet.wait_for_workers("native")
    os.kill(worker.pid, signal.SIGTERM)
    codes = wait_until(lambda: re.findall(r"exit_code=(\S+)", fleet.read_log()), "the exit of the worker")
    assert codes == ["0"]


def test_failed_import_keeps_traceback_and_exit_code() -> None:
    ended = run_code("from common.program.commands import run_program; run_program('producer', 'no_such_module')")
    assert ended.returncode == 1
    assert "ModuleNotFoundError" in ended.stderr
