"""The embedded Redis that outlives its parent: whoever takes it over may die in the middle of it, or not be the only one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from producer.demo import redis_server as embedded_redis
from producer.demo.redis_server import start_redis
from tests.integration.test_redis_server import answers, orphan

__all__ = ["orphan"]  # a fixture

TAKE_OVER_AND_FAIL = """
import os, pathlib, resource, signal, sys
from producer.demo.redis_server import start_redis

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
elif sys.argv[2] == "killed while it writes":
    os.fdopen = die
else:
    pathlib.Path.replace = die
start_redis(pathlib.Path(sys.argv[1]))
"""


@pytest.mark.parametrize("how", ["full", "killed while it writes", "killed once it has written"])
def test_a_server_is_found_again_after_whoever_took_it_over_failed_in_the_middle(
    tmp_path: Path, orphan: tuple[int, str], how: str
) -> None:
    """Its password is in one file alone; a server that nobody can talk to would hold the folder for ever."""
    command = [sys.executable, "-c", TAKE_OVER_AND_FAIL, str(tmp_path), how]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == (1 if how == "full" else -signal.SIGKILL), failed.stderr
    assert "File too large" in failed.stderr or how != "full"
    with start_redis(tmp_path) as server:
        assert (server.pid, server.url) == orphan
    assert not answers(server.url)


def test_of_two_that_take_a_server_over_at_once_one_stops_it(
    tmp_path: Path, orphan: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = start_redis(tmp_path)
    with monkeypatch.context() as other_process:
        other_process.setattr(os, "getpid", os.getppid)
        other_process.setattr(embedded_redis, "_is_alive", lambda _: False)  # it looked before we said that it is ours
        other = start_redis(tmp_path)
    assert (ours.pid, ours.url) == (other.pid, other.url) == orphan
    ours.stop()
    assert answers(ours.url), "the other uses it"
    with monkeypatch.context() as other_process:
        other_process.setattr(os, "getpid", os.getppid)
        other.stop()
    assert not answers(ours.url)


def test_a_folder_that_is_gone_does_not_keep_its_server_alive(tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    (tmp_path / "redis.json").unlink()
    server.stop()
    assert not answers(server.url)


def test_nothing_but_whole_files_is_left_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        start_redis(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["redis.lock"]
