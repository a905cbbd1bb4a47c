"""Producer commands in separate processes, so that a test can run several at the same time."""

import signal
import subprocess
import sys
from typing import NamedTuple

from tests.support.fleet import ROOT, Fleet

SIGNALLED_PRODUCER = "tests.support.faults.signalled_producer"


class Ended(NamedTuple):
    """The result of a command: exit code (negative for a signal), standard output and standard error."""

    code: int
    stdout: str
    stderr: str


def start_producer(fleet: Fleet, *arguments: str, module: str = "producer") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**fleet.environment(), "TMPDIR": str(fleet.folder)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_end(started: "subprocess.Popen[str]") -> Ended:
    stdout, stderr = started.communicate(timeout=90)
    return Ended(started.returncode, stdout, stderr)


def run_to_end(fleet: Fleet, *arguments: str) -> Ended:
    """Run a command to its end, with any exit code."""
    return await_end(start_producer(fleet, *arguments))


def run_signalled(fleet: Fleet, point: str, *arguments: str, by: signal.Signals = signal.SIGKILL) -> Ended:
    """Run a command that gets a signal at a point named in ``tests/support/faults/signalled_producer.py``."""
    return await_end(start_producer(fleet, f"{point}/{by.name}", *arguments, module=SIGNALLED_PRODUCER))
