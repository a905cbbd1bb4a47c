"""The services of ``docker-compose.yml``, started with its commands but without containers."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from producer.demo.redis_server import find_redis_server
from tests.support.deploy.files import SECRETS, read_compose, unescape
from tests.support.fleet import Fleet
from tests.support.servers.flower import start_flower
from tests.support.waiting import wait_until

PASSWORD = SECRETS["REDIS_PASSWORD"]
PING = """
import os, redis, sys
print("PONG" if redis.Redis(port=int(sys.argv[1]), password=os.environ["REDISCLI_AUTH"]).ping() else "")
"""


def write_wrapper(folder: Path, name: str, command: str) -> None:
    """Write a script into the folder that runs the real program with the test's options."""
    path = folder / name
    path.write_text(f"#!/bin/sh\nexec {command}\n")
    path.chmod(0o700)


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_up(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_redis_service_is_protected_and_persistent(tmp_path: Path) -> None:
    """Redis requires a password, does not show it in its command line, and does not lose data."""
    service = read_compose(**SECRETS)["services"]["redis"]
    server, port = find_redis_server(), find_free_port()
    write_wrapper(tmp_path, "redis-server", f'{server} "$@" --port {port} --bind 127.0.0.1 --dir {tmp_path}')
    write_wrapper(tmp_path, "redis-cli", f"{sys.executable} -c '{PING}' {port}")  # the server's package may not contain redis-cli
    environment = {**service["environment"], "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [unescape(word) for word in service["command"]]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port, password=PASSWORD) as client, redis.Redis(port=port) as stranger:
            wait_until(lambda: is_up(client), "Redis to answer")
            wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
            settings: Any = client.config_get()
            assert {name: settings[name] for name in wanted} == wanted
            with pytest.raises(redis.AuthenticationError):
                stranger.ping()
        assert psutil.Process(process.pid).name() == server.name, "signals must reach the server itself, not a shell"
        assert PASSWORD not in " ".join(psutil.Process(process.pid).cmdline())
        kind, check = service["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        for password, code in ((PASSWORD, 0), ("wrong", 1)):
            asked = {**environment, "REDIS_PASSWORD": password}
            assert subprocess.run(["sh", "-c", unescape(check)], env=asked, timeout=30, check=False).returncode == code
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_flower_service_requires_password_and_is_read_only(fleet: Fleet) -> None:
    service = read_compose(**SECRETS)["services"]["flower"]
    program, options = service["entrypoint"][:4], service["entrypoint"][4:]
    assert program == ["celery", "-A", "workers.app", "flower"]
    assert "--port=5555" in options
    credentials = service["environment"]["FLOWER_BASIC_AUTH"]
    with start_flower(fleet, *(one for one in options if one != "--port=5555"), FLOWER_BASIC_AUTH=credentials) as flower:
        assert flower.ask("workers")[0] == 401
        assert flower.ask("workers", credentials)[0] == 200
        assert flower.ask("api/worker/shutdown/unknown", credentials, "POST")[0] == 403
