"""The demo as a new user runs it: the real model on real data, stopped with Ctrl+C and started again."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from common.program.interrupts import INTERRUPT_MESSAGE
from common.settings import Settings
from producer.demo.redis_server import start_redis
from tests.support.fleet import Fleet
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

# Runs a program and sends it a signal after a given number of calls or returns of a function.
AT_FUNCTION = """
import os, runpy, sys

event, name, count, number, *sys.argv = sys.argv[1:]
left = int(count)

def find_moment(frame, happened, argument):
    global left
    left -= happened == event and name == (argument.__name__ if event == "c_return" else frame.f_code.co_qualname)
    if not left:
        sys.setprofile(None)
        os.kill(os.getpid(), int(number))

from common.program import interrupts
handle = interrupts.handle_interrupts

def handle_and_find():
    handle()
    sys.setprofile(find_moment)

interrupts.handle_interrupts = handle_and_find
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def start_demo(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "producer", "demo", "--dir", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def find_parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("store/runs/*/parts/w1/*.parquet")}


def find_processes(folder: Path) -> list[psutil.Process]:
    """Return the running processes, except this one, that name the folder in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(
                str(folder) in text for text in (*process.cmdline(), *process.environ().values())
            ):
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.mark.timeout(300)
def test_demo_continues_after_ctrl_c_and_prints_scores(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    interrupted = start_demo(folder)
    wait_until(lambda: len(find_parts(folder)) >= 4, "four parts", deadline_s=120)
    interrupted.send_signal(signal.SIGINT)
    _, output = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert "nothing is lost, run the same command again" in output
    assert "Traceback" not in output
    assert find_processes(folder) == []
    before = find_parts(folder)

    finished = start_demo(folder)
    shown, complained = finished.communicate(timeout=200)
    assert finished.returncode == 0, complained
    assert {name: content for name, content in find_parts(folder).items() if name in before} == before, (
        "finished parts must not be written again"
    )
    for dataset, n, bar in (("digits", 500, 0.95), ("shapes", 1500, 0.90)):
        scores = re.search(rf"{dataset} +{n} +([01]\.\d+) \[", shown)
        assert scores, shown
        assert float(scores[1]) >= bar
    assert (folder / "results" / "results.parquet").is_file()
    assert find_processes(folder) == []

    again = start_demo(folder)
    assert again.communicate(timeout=60)[0].count("coverage") == 1
    (run_folder,) = (folder / "store" / "runs").iterdir()
    with start_redis(folder / "redis") as server:  # restores the ledger from the append-only file
        fleet = Fleet(folder, server, Settings(redis_url=server.url, store_url=f"file://{folder}/store"))
        assert len(assert_run_is_sound(fleet, run_folder.name)) == 2000


@pytest.mark.parametrize(
    ("event", "function", "count", "by"),
    [
        ("c_return", "fork_exec", 1, signal.SIGINT),  # Redis was started
        ("c_return", "fork_exec", 2, signal.SIGTERM),  # the worker was started
        ("call", "watch_run", 1, signal.SIGTERM),
        ("call", "Popen.send_signal", 1, signal.SIGINT),  # the run is done, the worker is drained
        ("call", "Popen.wait", 1, signal.SIGTERM),
        ("call", "RedisServer.stop", 1, signal.SIGTERM),
    ],
)
def test_interrupted_demo_ends_all_its_processes(tmp_path: Path, event: str, function: str, count: int, by: signal.Signals) -> None:
    (tmp_path / "tiny.yaml").write_text("{name: tiny, engine: echo, engine_options: {default: B}}")  # replaces the model
    demo = ("producer", "demo", "--dir", str(tmp_path / "demo"))
    ended = subprocess.run(
        [sys.executable, "-c", AT_FUNCTION, event, function, str(count), str(int(by)), *demo],
        env={**os.environ, "FLEET_PROFILES_DIR": str(tmp_path)},
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    left = find_processes(tmp_path / "demo")
    for process in left:
        process.kill()
    assert left == []
    assert (ended.returncode, ended.stderr.strip()) == (130, INTERRUPT_MESSAGE)
