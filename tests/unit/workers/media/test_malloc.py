"""The malloc setting for freed images applies only to the worker process. Settings of the user take precedence."""

import os
import platform
import subprocess
import sys

import pytest

from tests.support.fleet import ROOT

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed images and has this setting")

# Check whether a block of image size gets its own mapping after a block of this size was freed.
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
    """Run scripts in a process with only the malloc settings in ``environment``. Return the printed words."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", "\n".join((IS_MAPPED, *scripts))]
    environment = {**inherited, **environment}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def test_loader_returns_freed_images_to_the_system() -> None:
    assert run_python("print(is_mapped())", LOADER, "print(is_mapped())") == ["False", "True"]


def test_child_process_keeps_its_malloc_defaults() -> None:
    assert run_python(LOADER, "print(is_mapped(), flush=True)", CHILD) == ["True", "False"]


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_MMAP_THRESHOLD_", str(2**25)), ("GLIBC_TUNABLES", f"glibc.malloc.mmap_threshold={2**25}")]
)
def test_malloc_settings_of_user_are_kept(name: str, value: str) -> None:
    assert run_python(LOADER, "print(is_mapped())", **{name: value}) == ["False"]


def test_unrelated_tunables_have_no_effect() -> None:
    assert run_python(LOADER, "print(is_mapped())", GLIBC_TUNABLES="glibc.malloc.arena_max=4") == ["True"]
