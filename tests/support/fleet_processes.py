"""The processes that a test's fleet has started. All of them must end before the test ends."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil
import pytest

from common.ledger.keys import run_keys
from tests.support.fleet import ROOT, Fleet
from tests.support.waiting import wait_until


def find_processes(fleet: Fleet) -> list[psutil.Process]:
    """Return the processes with this fleet's store in their environment: launchers, workers, and their engines' children."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("FLEET_STORE_URL") == fleet.settings.store_url:
                found.append(process)
    return found


@pytest.fixture
def clean_fleet(fleet: Fleet) -> Iterator[Fleet]:
    """Yield a fleet; assert afterwards that all its processes have ended."""
    yield fleet
    fleet.stop_workers()
    wait_until(lambda: not find_processes(fleet), f"the end of {find_processes(fleet)}", deadline_s=20)


@contextmanager
def start_launcher(fleet: Fleet, *arguments: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run ``workers start`` with these arguments; its log goes to ``stderr``. At the end, kill it and all its child processes."""
    command = [sys.executable, "-m", "workers", "start", *arguments]
    # A separate session, as in a terminal. Ctrl+C reaches the foreground group, which contains only the launcher.
    launcher = subprocess.Popen(
        command, env={**environment}, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip
    with launcher:
        try:
            yield launcher
        finally:
            for process in find_processes(fleet):
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def assert_no_leases_held(fleet: Fleet, run_id: str, model: str) -> None:
    """Assert that the run does not have leases, and that workers are not registered."""
    keys = run_keys(run_id)
    assert fleet.ledger.client.zcard(keys.leases) == 0
    assert fleet.ledger.client.hlen(keys.holders) == 0
    assert fleet.workers(model) == []
