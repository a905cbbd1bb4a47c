"""What the C library does with freed images: set for a worker's own process, and never over what the user says."""

import os
import platform
import subprocess
import sys

import pytest

from tests.support.fleet import ROOT

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed images, and can be told not to")

# Whether a block as large as an image still gets a mapping of its own, once one of its size was freed.
IS_MAPPED = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def is_mapped():
    libc.free(libc.malloc(ctypes.c_size_t(12 * 2**20)))
    block = libc.malloc(ctypes.c_size_t(12 * 2**20))
    size_and_flags = ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t)).value
    libc.free(block)
    return bool(size_and_flags & 2)
"""
LOADER = """
from workers.media.loader import MediaLoader
MediaLoader(1, 2**20)
"""
CHILD = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {IS_MAPPED + "print(is_mapped())"!r}], check=True)
"""


def run_python(*scripts: str, **environment: str) -> list[str]:
    """Run scripts in a process whose C library nobody has told anything but ``environment``; return what it printed."""
    told = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", "\n".join((IS_MAPPED, *scripts))]
    environment = {**told, **environment}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def test_freed_images_go_back_to_the_system_once_there_is_a_loader() -> None:
    assert run_python("print(is_mapped())", LOADER, "print(is_mapped())") == ["False", "True"]


def test_a_process_that_a_worker_starts_keeps_its_own_ways() -> None:
    assert run_python(LOADER, "print(is_mapped(), flush=True)", CHILD) == ["True", "False"]


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_MMAP_THRESHOLD_", str(2**25)), ("GLIBC_TUNABLES", f"glibc.malloc.mmap_threshold={2**25}")]
)
def test_what_the_user_sets_is_left_as_it_is(name: str, value: str) -> None:
    assert run_python(LOADER, "print(is_mapped())", **{name: value}) == ["False"]


def test_other_tunables_say_nothing_about_it() -> None:
    assert run_python(LOADER, "print(is_mapped())", GLIBC_TUNABLES="glibc.malloc.arena_max=4") == ["True"]
