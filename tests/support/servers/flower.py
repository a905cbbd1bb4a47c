"""A real Flower, started as a user does, and workers with the names of GPU workers."""

import base64
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common.broker.queues import queue_name
from tests.support.fleet import ROOT, Fleet
from tests.support.waiting import wait_until

CREDENTIALS = "researcher:correct-horse-battery"
CELERY = (sys.executable, "-m", "celery", "-A", "workers.app")
COMMAND = (*CELERY, "flower", "--port=0")
_ALONE = ("--without-gossip", "--without-mingle")


class Flower:
    """A running Flower: its process, its log and its address."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self._log = log
        port = wait_until(lambda: re.search(r"Visit me at http://[\d.]+:(\d+)", self.read_log()), "Flower's address")
        self.url = f"http://127.0.0.1:{port[1]}"

    def read_log(self) -> str:
        return self._log.read_text()

    def ask(self, path: str, credentials: str = "", method: str = "GET") -> tuple[int, str]:
        """Send a request; return the status and the body of the response."""
        request = urllib.request.Request(f"{self.url}/{path}", method=method)  # noqa: S310  # a local server of the test
        if credentials:
            request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # the same
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@contextmanager
def start_flower(fleet: Fleet, *arguments: str, **environment: str) -> Iterator[Flower]:
    with run_logged(fleet, "flower.log", *COMMAND, *arguments, **environment) as process:
        yield Flower(process, fleet.folder / "flower.log")


@contextmanager
def start_gpu_workers(fleet: Fleet, model: str, *names: str) -> Iterator[None]:
    """Run a worker process for each name, for example ``gpu0@node1``, as the launcher on a machine with these GPUs does."""
    with ExitStack() as stack:
        for name in names:
            settings = {"FLEET_WORKER_PROFILE": model, "FLEET_WORKER_DEVICE": name.partition("@")[0], "FLEET_CHUNKS_IN_FLIGHT": "2"}
            command = (*CELERY, "worker", "-P", "threads", "-c", "2", "-Q", queue_name(model), "-n", name, *_ALONE)
            stack.enter_context(run_logged(fleet, "workers.log", *command, **settings))
        fleet.wait_for_workers(model, len(names))
        yield


@contextmanager
def run_logged(fleet: Fleet, log: str, *command: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command until the block ends; append its output to ``log`` in the fleet's folder."""
    with (fleet.folder / log).open("ab") as stream:
        process = subprocess.Popen(
            command, env={**fleet.environment(), **environment}, cwd=ROOT, stdout=stream, stderr=stream
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)
