"""A Linux control group with a memory limit, in which the system counts the kills of the out-of-memory killer."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_EMPTY_S = 10.0


class NoMemoryLimit(Exception):  # a state of the machine, not an error
    """The machine does not permit a control group with a memory limit. The message states the reason."""


@contextmanager
def open_memory_limit(limit_bytes: int) -> Iterator[Path]:
    """Yield a new control group below the group of this process. A process joins it by writing its id to ``cgroup.procs``.

    Uses cgroup v2 if its memory controller is delegated, otherwise v1. Raises ``NoMemoryLimit``.
    """
    parent, limit = find_parent()
    group = parent / f"crash-cost-{time.time_ns()}"
    try:
        group.mkdir()
    except OSError as error:
        raise NoMemoryLimit(f"{group} cannot be created: {error.strerror}") from error
    try:
        try:
            (group / limit).write_text(str(limit_bytes))
        except OSError as error:
            raise NoMemoryLimit(
                f"{group / limit} cannot be written: {error.strerror}; is the memory controller delegated?"
            ) from error
        with suppress(OSError):  # absent without swap accounting
            (group / "memory.swap.max").write_text("0")
        yield group
    finally:
        _remove(group)


def find_parent() -> tuple[Path, str]:
    """Return the memory group of this process, and the name of the file that holds a group's limit."""
    reasons = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _ROOT / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
        if not controllers:
            group = _ROOT / path.lstrip("/")
            delegated = group / "cgroup.subtree_control"
            if delegated.is_file() and "memory" in delegated.read_text().split():
                return group, "memory.max"
            reasons.append(f"{delegated} does not delegate the memory controller")
    raise NoMemoryLimit("; ".join(reasons) or "/proc/self/cgroup does not name a group")


def _remove(group: Path) -> None:
    ends_at = time.monotonic() + _EMPTY_S
    while group.exists() and time.monotonic() < ends_at:
        with suppress(OSError):  # a process that has just exited may still be listed
            group.rmdir()
            return
        time.sleep(0.1)
