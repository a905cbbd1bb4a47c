"""A Redis of our own, for whoever has none: started on 127.0.0.1 with a password, its append-only file in one folder.

The server holds a lock on its folder for as long as it lives, so that one append-only file never has two servers: the
lock is inherited from us and outlives us.  A start in a folder whose server still runs takes that server over.
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

from common.errors import ConfigError, ServiceUnreachable

_READY_S = 20.0  # loading a large append-only file is not counted
_STOP_S = 20.0
_POLL_S = 0.005
_PORT_TRIES = 5
_LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class _Address:
    """How to reach a folder's server; kept in ``redis.json``, readable by its owner alone.  ``owner`` is the process that stops it."""

    port: int
    password: str
    owner: int

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"


class EmbeddedRedis:
    """A running server and the folder it keeps its state in.  Made by ``start_redis``; leaving its ``with`` block stops it.

    A server that another living process started is shared: ``stop`` leaves it running.
    """

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        self.folder = folder
        self.pid = 0
        self._options = options
        self._address = _Address(0, "", 0)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self._address.port

    @property
    def url(self) -> str:
        """Return ``redis://:password@127.0.0.1:port/0``."""
        return self._address.url

    def stop(self) -> None:
        """End the server in order, its file written, and wait until it is gone."""
        if self._address.owner == os.getpid():
            self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server if it runs, and start it again on the same port with what its file holds."""
        self._end(signal.SIGTERM)
        self._launch(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _start(self, port: int | None) -> None:
        lock = _try_lock(self.folder)
        if lock is None:
            self._adopt()
            return
        os.close(lock)
        ...


def start_redis(
    folder: Path, *, port: int | None = None, append_only: bool = True, extra: Mapping[str, str] = {}
) -> EmbeddedRedis:
    ...
