"""Elements of a SLURM job array without SLURM: ``deploy/slurm/worker.sbatch`` under bash, with the variables that SLURM sets."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.fleet import ROOT, Fleet

SCRIPT = ROOT / "deploy" / "slurm" / "worker.sbatch"
ARRAY = 4711


@dataclass(frozen=True)
class Element:
    """A running element. Its output is appended to ``log``, as with ``--open-mode=append``."""

    shell: "subprocess.Popen[bytes]"
    log: Path

    def read_log(self) -> str:
        return self.log.read_text(errors="replace")

    def find_launcher(self) -> psutil.Process:
        """Return the shell's only child, the launcher."""
        (launcher,) = psutil.Process(self.shell.pid).children()
        return launcher

    def signal_shell(self, number: signal.Signals) -> None:
        """Signal the batch shell alone, as ``--signal=B:…`` and ``scancel --batch`` do."""
        self.shell.send_signal(number)

    def signal_all(self, number: signal.Signals) -> None:
        """Signal every process of the element, as SLURM does when it revokes the node."""
        _signal_tree(self.shell.pid, number)

    def wait(self) -> int:
        """Return the exit code. At that time, SLURM would kill the element's remaining processes."""
        return self.shell.wait(timeout=60)


class Slurm:
    """The environment of an array: variables, a copy of the script, and a ``scontrol`` that records its calls."""

    def __init__(self, fleet: Fleet) -> None:
        self._folder = fleet.folder / "slurm"
        self._folder.mkdir()
        self._requeued = self._folder / "requeued"
        self.env_file = self._folder / "env"
        self._write(
            "env", "".join(f"{name}='{value}'\n" for name, value in fleet.environment().items() if name.startswith("FLEET_"))
        )
        self._write("scontrol", f'#!/bin/sh\necho "$@" >> {self._requeued}\n').chmod(0o700)
        self._script = self._write("slurm_script", SCRIPT.read_text())  # SLURM also runs a copy

    @contextmanager
    def start(self, task: int, *arguments: str, **variables: str) -> Iterator[Element]:
        """Run one element; kill its remaining processes at the end."""
        log = self._folder / f"vlm-worker-{ARRAY}_{task}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")}
        given = {
            "SLURM_JOB_ID": str(ARRAY + 1 + task),
            "SLURM_ARRAY_JOB_ID": str(ARRAY),
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_JOB_NODELIST": "node7",
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_TMPDIR": str(self._folder),
            "CUDA_VISIBLE_DEVICES": "",
            "PATH": f"{self._folder}{os.pathsep}{environment['PATH']}",
            "PYTHONPATH": str(ROOT),  # workers import the engines of the tests
            "VLM_FLEET_VENV": sys.prefix,
            "VLM_FLEET_ENV": str(self.env_file),
            **variables,
        }
        with log.open("ab") as stream:
            shell = subprocess.Popen(
                ["bash", str(self._script), *arguments], env={**environment, **given}, cwd=ROOT, stdout=stream, stderr=stream
            )
        try:
            yield Element(shell, log)
        finally:
            _signal_tree(shell.pid, signal.SIGKILL)
            shell.wait()

    def read_requeued(self) -> list[str]:
        """Return the arguments of each call of ``scontrol``."""
        return self._requeued.read_text().splitlines() if self._requeued.exists() else []

    def _write(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path


def _signal_tree(pid: int, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        shell = psutil.Process(pid)
        for process in [shell, *shell.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
