"""A real Flower, started as a user does."""

import base64
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.fleet import ROOT, Fleet
from tests.support.waiting import wait_until

CREDENTIALS = "researcher:correct-horse-battery"
COMMAND = (sys.executable, "-m", "celery", "-A", "workers.app", "flower", "--port=0")


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
        """Return status and body of an answer."""
        request = urllib.request.Request(f"{self.url}/{path}", method=method)  # noqa: S310  # our own server on this machine
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
    log = fleet.folder / "flower.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*COMMAND, *arguments], env={**fleet.environment(), **environment}, cwd=ROOT, stdout=stream, stderr=stream
        )  # fmt: skip
    try:
        yield Flower(process, log)
    finally:
        process.terminate()
        process.wait(timeout=20)
