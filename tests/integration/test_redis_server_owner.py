"""The embedded server: starts that fail in the middle, and truncated or missing files."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from producer.demo.redis_server import start_redis
from tests.support.redis_orphans import answers, has_key, orphan, set_key

__all__ = ["orphan"]  # a fixture

START_AND_FAIL = """
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
def test_start_succeeds_after_interrupted_start(tmp_path: Path, orphan: tuple[int, str], how: str) -> None:
    command = [sys.executable, "-c", START_AND_FAIL, str(tmp_path), how]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == (1 if how == "full" else -signal.SIGKILL), failed.stderr
    assert "File too large" in failed.stderr or how != "full"
    with start_redis(tmp_path) as server:
        assert (server.url, server.pid != orphan[0]) == (orphan[1], True)
    assert not answers(server.url)


@pytest.mark.parametrize("content", ["", '{"port": 1', "[]", '{"port": 1}', None])
def test_truncated_password_file_is_replaced(tmp_path: Path, content: str | None) -> None:
    with start_redis(tmp_path) as first:
        set_key(first, "kept")
    path = tmp_path / "redis.json"
    path.unlink() if content is None else path.write_text(content)
    with start_redis(tmp_path) as second:
        assert has_key(second, "kept")


def test_server_without_its_password_file_is_stopped(tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    (tmp_path / "redis.json").unlink()
    server.stop()
    assert not answers(server.url)


def test_failed_start_does_not_leave_partial_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        start_redis(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["redis.lock"]
