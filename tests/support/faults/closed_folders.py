"""Folders that may not be entered.  Tests may run as root, whom no mode of a folder stops."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest


def close_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the system tell nothing of what lies below ``folder``, as for a folder of mode 0700 of another user."""
    stat = os.stat

    def refuse(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if not isinstance(path, int) and folder in Path(os.fsdecode(path)).parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refuse)
