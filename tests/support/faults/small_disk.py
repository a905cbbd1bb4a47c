"""A small separate disk (a tmpfs), for stores that become full or read-only."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

DISK_BYTES = 2**20
_BLOCK_BYTES = 4096  # tmpfs allocates whole pages


@dataclass(frozen=True)
class SmallDisk:
    """A mounted disk. The file ``filler`` fills it."""

    folder: Path

    @property
    def free_bytes(self) -> int:
        return os.statvfs(self.folder).f_bavail * _BLOCK_BYTES

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Fill the disk except for ``leave_bytes``, rounded down to whole blocks."""
        blocks = (self.free_bytes - leave_bytes) // _BLOCK_BYTES
        with (
            (self.folder / "filler").open("ab", buffering=0) as filler,
            suppress(OSError),
        ):  # other processes write at the same time
            for _ in range(blocks):
                filler.write(bytes(_BLOCK_BYTES))

    def make_room(self) -> None:
        (self.folder / "filler").unlink()

    def forbid_writing(self) -> None:
        """Make the disk read-only, as the kernel does after disk errors."""
        wait_until(lambda: _try_to("mount", "-o", "remount,ro", self.folder) == "", "a moment without an open file for writing")

    def allow_writing(self) -> None:
        assert _try_to("mount", "-o", "remount,rw", self.folder) == ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Yield an empty disk of 1 MiB. Skip the test without root, because only root may mount. CI runs the tests as root."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small disk that this test fills")
    with mount_disk(tmp_path / "disk") as disk:
        yield disk


@contextmanager
def mount_disk(folder: Path, size_bytes: int = DISK_BYTES) -> Iterator[SmallDisk]:
    """Mount an empty disk at ``folder``; unmount it at the end, even with open files."""
    folder.mkdir()
    if output := _try_to("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder):
        pytest.fail(f"a tmpfs could not be mounted for this test (a container needs the capability SYS_ADMIN): {output}")
    try:
        yield SmallDisk(folder)
    finally:
        assert _try_to("umount", "--lazy", folder) == ""


def _try_to(*command: str | Path) -> str:
    """Run a command; return its error output, or an empty text if it succeeded."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"
